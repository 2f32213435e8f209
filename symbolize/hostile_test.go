package symbolize_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/heaptap/heaptap/symbolize"
)

// Damaged files give less, wrong or no names; nothing worse.
func TestDamaged(t *testing.T) {
	s := splitLibrary(t)
	whole, err := os.ReadFile(s.whole)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	file := filepath.Join(t.TempDir(), "damaged.so")
	frames := framesAt(module, s.id, s.list)
	named := 0
	for range 400 {
		damaged := append([]byte{}, whole...)
		for range 1 + rng.IntN(40) {
			at := 0x1000 + rng.IntN(len(damaged)-0x1000) // behind the build-id
			damaged[at] = byte(rng.Uint32())
		}
		if rng.IntN(10) == 0 {
			damaged = damaged[:rng.IntN(len(damaged))]
		}
		if err := os.WriteFile(file, damaged, 0o666); err != nil {
			t.Fatal(err)
		}
		named += symbolize.Frames(frames, symbolize.Options{Dirs: []string{file}}).Objects[0].Named
	}
	if named == 0 {
		t.Error("nothing was read of any file")
	}
	t.Logf("%d of %d addresses named", named, 400*len(frames))
}
