package profiler

import (
	"bufio"
	"os/exec"
	"os"
	"testing"
)

func TestQuick(t *testing.T) {
	py := os.Getenv("PY")
	if py == "" { t.Skip("PY") }
	cmd := exec.Command(py, "-c", `
import sys
keep=[]
print("ready", flush=True)
for line in sys.stdin:
    for i in range(1000): keep.append(bytearray(5000))
    print(len(keep), flush=True)
`)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil { t.Fatal(err) }
	defer cmd.Process.Kill()
	r := bufio.NewReader(out)
	r.ReadString('\n')
	pid := cmd.Process.Pid
	a, err := Attach(t.Context(), pid, AttachOptions{})
	if err != nil { t.Fatal(err) }
	t.Logf("%+v", a)
	tt, _ := open(pid)
	at, _ := tt.tracked()
	t.Logf("kind %d %#x clock %#x", at.header.Config.TstateKind, at.header.Config.CurrentTstate, at.header.Config.ClockWord)
	in.Write([]byte("x\n"))
	l, err := r.ReadString('\n')
	t.Log(l, err)
	s, err := ReadStatus(t.Context(), pid)
	if err != nil { t.Fatal(err) }
	t.Logf("%+v", s)
	d, err := TakeDump(t.Context(), pid, DumpOptions{})
	if err != nil { t.Fatal(err) }
	t.Logf("pause %v, took %v, %d blocks, total %v", d.Pause, d.Took, d.Blocks, d.Snapshot.Total())
	for _, rec := range d.Snapshot.Records {
		if rec.InuseBytes > 100000 { t.Log(rec, d.Snapshot.Callers(rec.Stack)) }
	}
	e, err := Detach(t.Context(), pid)
	if err != nil { t.Fatal(err) }
	t.Logf("%+v", e)
	in.Write([]byte("x\n"))
	l, err = r.ReadString('\n')
	t.Log(l, err)
}
