package agent

import "testing"

func TestPlanFits(t *testing.T) {
	for _, granule := range []uint32{3, 4} {
		for size := uint64(MinTables); size <= 64<<30; size *= 2 {
			var h Tables
			used := h.Plan(size, 24<<30, granule)
			if used > size {
				t.Errorf("granule %d: plan for %d MiB uses %d MiB", granule, size>>20, used>>20)
			}
			if h.Leaves.Entries*leafSize < size/16 {
				t.Errorf("granule %d: of %d MiB only %d MiB are for leaves", granule, size>>20, h.Leaves.Entries*leafSize>>20)
			}
		}
	}
}
