package heap

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// synthetic makes a snapshot like that of a big program: stacks call stacks of about the given depth that share
// prefixes as real ones do, and records for them. The same arguments give the same snapshot.
func synthetic(stacks, depth, records int) *Snapshot {
	rng := rand.New(rand.NewPCG(1, uint64(stacks)))
	s := &Snapshot{
		Time:     time.Unix(1_700_000_000, 0),
		Duration: time.Hour,
		Info:     []KeyValue{{"python", "3.14.0"}, {"command", "python3 server.py"}},
	}
	b := NewBuilder(s)
	var frames []int32
	for i := range 5000 {
		f := Frame{
			Func: fmt.Sprintf("Class%d.method_%d", i%300, i/3), File: fmt.Sprintf("/srv/app/package%d/module%d.py",
				i%20, i%300),
			Line: 1 + i, FirstLine: 1 + i/2*2,
		}
		frames = append(frames, b.Frame(f))
	}
	leaves := make([]int32, 0, stacks)
	path := make([]int32, depth)
	for i := range path {
		path[i] = None
	}
	for range stacks {
		// Most stacks differ from the one before only near the leaf.
		from := depth - 1 - int(min(rng.ExpFloat64()*float64(depth)/8, float64(depth-1)))
		for d := from; d < depth; d++ {
			parent := None
			if d > 0 {
				parent = path[d-1]
			}
			frame := frames[(d*151+int(rng.ExpFloat64()*40))%len(frames)]
			path[d] = b.Push(parent, frame)
		}
		if from == 0 || path[depth-1] == None {
			continue
		}
		leaves = append(leaves, path[depth-1])
	}
	var types, threads [40]int32
	for i := range types {
		types[i] = b.Text(fmt.Sprintf("package.Type%d", i))
		threads[i] = b.Text(fmt.Sprintf("worker-%d", i%8))
	}
	domains := [3]int32{b.Text("raw"), b.Text("mem"), b.Text("obj")}
	for i := range records {
		n := 1 + int64(rng.ExpFloat64()*5)
		size := int64(16 * (1 + rng.IntN(64)))
		s.Records = append(s.Records, Record{
			Stack: leaves[i%len(leaves)], Domain: domains[i%3], Thread: threads[rng.IntN(40)],
			Type: types[rng.IntN(40)],
			Age:  int32(1) << rng.IntN(12), InuseBytes: n * size, InuseBlocks: n, AllocBytes: 3 * n * size,
			AllocBlocks: 3 * n,
		})
	}
	return s
}
