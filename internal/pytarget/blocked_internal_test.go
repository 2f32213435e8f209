package pytarget

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		report blockedReport
		exact  bool
		want   string // "" for no fault
	}{
		{blockedReport{}, true, ""},
		{blockedReport{Unexpected: []string{"'EINTR' after 0.1 s"}}, true, "EINTR"},
		{blockedReport{Limit: 1, Rounds: 2, Shortest: 1, Longest: 1.2}, true, ""},
		{blockedReport{Limit: 1, Rounds: 0}, true, "never made"},
		{blockedReport{Limit: 1, Rounds: 2, Shortest: 0.9, Longest: 1}, true, "shortened to 0.900"},
		{blockedReport{Limit: 1, Rounds: 2, Shortest: 0.9, Longest: 1}, false, "shortened to 0.900"},
		{blockedReport{Limit: 1, Rounds: 2, Shortest: 1, Longest: 1.8}, true, "stretched to 1.800"},
		{blockedReport{Limit: 1, Rounds: 2, Shortest: 1, Longest: 1.8}, false, ""},
	} {
		err := c.report.judge(c.exact)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("judge(%v) of %+v: %v, want %q", c.exact, c.report, err, c.want)
		}
	}
}

func TestBlockingCalls(t *testing.T) {
	t.Parallel()
	calls := blockingCalls()
	if len(calls) < 30 {
		t.Errorf("only %d calls: %v", len(calls), calls)
	}
	for _, name := range append(onlyAMD64, rearming...) {
		if !strings.Contains(" "+strings.Join(calls, " ")+" ", " "+name+" ") {
			t.Errorf("no call %s", name)
		}
	}
}
