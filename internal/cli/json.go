package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
)

// The types below are what --json prints. Their field names are part of the interface: fields may be added, none is
// renamed or changes its unit. *_bytes are bytes, *_ns nanoseconds, times RFC 3339; lists are never null.

const jsonHelp = `ps, attach, status, dump, watch, detach, repair and doctor print JSON with
--json. Later versions may add fields; they rename none and change no unit.
*_bytes are bytes, *_ns nanoseconds, times RFC 3339. On failure stdout stays
empty, but for watch: the reason is on stderr and in the exit code.

  ps      [{pid, parent, python, rss_bytes, user, tracked, command, problem}]
          tracked is null or a state; problem says why a process cannot be
          told or attached to, "" where it can
  attach  {pid, python, hooked, sample_bytes, pause_ns, tid, took_ns, already,
          notes}
          sample_bytes is 0 where every block is tracked
  status  {pid, state, python, since, sample_bytes, totals: [T], total: T,
          unseen_frees, stacks, code_objects, threads, agent_text_bytes,
          agent_tables_bytes, agent_reserved_bytes, peak_bytes, resident_bytes,
          lost, follows, followed, not_followed, parent, not_seen, memory,
          on_signal}
          T is {domain, live_blocks, live_bytes, alloc_blocks, alloc_bytes,
          freed_blocks, freed_bytes}; the total has no domain
          state is tracking, displaced, incomplete, pass-through or forked
          follows: forked children get tables of their own; parent is the pid
          that it was forked from so, or 0
          on_signal is null or {signal, pattern, written, failed, passed, error,
          last, place}; place is in place, foreign or not known
          memory is null or {rss_bytes, tracked_bytes, beside_bytes,
          files_clean_bytes, files_dirty_bytes, stacks_bytes, shared_bytes,
          heaptap_bytes, unexplained_bytes, files_shared_bytes, absent_bytes,
          swapped_bytes, heap_growth_bytes}; rss is the sum of the next 8
  dump    {pid, path, file_bytes, time, live_blocks, live_bytes, pause_ns,
          took_ns, notes}
  watch   a line for each event, {event, time, pid, …}; event is
          begin   last: what was seen first
          dump    as dump prints, and reasons, removed: names of older files
          failed  reasons, error, again: whether it will be tried again
          blind   error: a look failed; three in a row end the watch
          end     error, last: what was seen last, written, kept: names
          reasons are [{trigger, text, bytes, from_bytes, span_ns}]; trigger is
          every, peak, rss-peak, rss-above or growth
          last is {time, live_blocks, live_bytes, peak_bytes, rss_bytes}
  detach  {pid, restored, slots, foreign, unmapped, why,
           pause_ns}
  repair  the same
  --tree  of attach, status, detach and repair: {pid, processes: [{pid, parent,
          name, error, result}]}; error is "" where there is a result, which is
          what the command prints without --tree. dump --tree prints what dump
          does, and processes with {pause_ns, took_ns, notes} as their results,
          and untracked: [{pid, parent, name}]
  attach --follow
          a line for each event, {event, time, pid, parent, name}; event is
          attached  result: as attach prints
          forked    the agent tracks it by itself
          failed    error: a Python that cannot be attached to
          ended     it has ended, or executes another program
  doctor  {pid, blocked, checks: [{name, verdict, fact, way_round}]}
          pid is null without one; verdict is ok, warn or stop
  diff    {format, version, old, new, warnings, growth, by, rows: [{name or
          frame or stack, own, cumulative}]}; as report prints its parts
          a frame is {function, file, line, first_line}, of native code with
          object, build_id and, where it has no name, address
  leaks   {format, version, times, window_seconds, suspects: [{stack, below,
          bytes, blocks, bytes_per_minute, blocks_per_minute, chance,
          survivors_least_bytes, survivors_most_bytes, reused, types, ages,
          lengths}], cleared, warnings}
          bytes and blocks are those at each of times

  call    {pid, tid, thread, pause_ns, results: [{expression, number, text,
          type, value, errno, errno_name, buffers: [{addr, bytes, text}]}],
          kept: [{addr, size_bytes}], notes}
          number is 0 for void; value is a number, true, false, an address
          "0x...", or null where only text has it; tid is 0 where no thread was
          borrowed. With --explain: {pid, calls, complete, position, stub,
          pause_ns}
  stack   {pid, pause_ns, threads: [{tid, thread, state, gil, frames, end,
          python: [{function, file, line}]}], notes}
          gil is null where it is not known or there is no Python
  symbols [{name, demangled, version, module, addr, size, kind, bound, source,
          from, file}]
  regs    {pid, tid, thread, registers: [{name, value}]}; NAME=VALUE:
          {pid, tid, thread, name, before, value}
  peek    {pid, addr, symbol, bytes}
  poke    {pid, addr, symbol, old, new, code, single, threads, pause_ns}

  python  {version, flavour, debug, free_threaded, path}, null where unknown
          flavour is static, shared or embedded`

// jsonFlag adds --json.
func jsonFlag(c *cobra.Command, on *bool) {
	c.Flags().BoolVar(on, "json", false, "print JSON (heaptap help json)")
}

type pythonValue struct {
	Version      string `json:"version"`
	Flavour      string `json:"flavour"`
	Debug        bool   `json:"debug"`
	FreeThreaded bool   `json:"free_threaded"`
	Path         string `json:"path"`
}

func pythonJSON(p profiler.Python) *pythonValue {
	if p.Version == "" {
		return nil
	}
	return &pythonValue{p.Version, p.Flavour, p.Debug, p.FreeThreaded, p.Path}
}

type candidateValue struct {
	Pid      int             `json:"pid"`
	Parent   int             `json:"parent"`
	Python   *pythonValue    `json:"python"`
	RSSBytes uint64          `json:"rss_bytes"`
	User     string          `json:"user"`
	Tracked  *profiler.State `json:"tracked"`
	Command  string          `json:"command"`
	Problem  string          `json:"problem"`
}

func candidatesJSON(list []profiler.Candidate) []candidateValue {
	out := make([]candidateValue, 0, len(list))
	for _, c := range list {
		v := candidateValue{
			Pid: c.Pid, Parent: c.Parent, Python: pythonJSON(c.Python), RSSBytes: c.RSS, User: c.User, Command: c.Command, Problem: c.Problem,
		}
		if c.Tracked != "" {
			v.Tracked = &c.Tracked
		}
		out = append(out, v)
	}
	return out
}

type attachmentValue struct {
	Pid         int          `json:"pid"`
	Python      *pythonValue `json:"python"`
	Hooked      []string     `json:"hooked"`
	SampleBytes uint64       `json:"sample_bytes"`
	PauseNS     int64        `json:"pause_ns"`
	Tid         int          `json:"tid"`
	TookNS      int64        `json:"took_ns"`
	Already     bool         `json:"already"`
	Notes       []string     `json:"notes"`
}

func attachmentJSON(pid int, o profiler.AttachOptions, at *profiler.Attachment) attachmentValue {
	v := attachmentValue{
		Pid: pid, Python: pythonJSON(at.Python), Hooked: []string{}, SampleBytes: o.SampleBytes, PauseNS: int64(at.Pause),
		Tid: at.Tid, TookNS: int64(at.Took), Already: at.Already, Notes: list(at.Notes),
	}
	for _, d := range at.Hooked {
		v.Hooked = append(v.Hooked, d.String())
	}
	return v
}

type totalsValue struct {
	Domain      string `json:"domain,omitempty"`
	LiveBlocks  uint64 `json:"live_blocks"`
	LiveBytes   uint64 `json:"live_bytes"`
	AllocBlocks uint64 `json:"alloc_blocks"`
	AllocBytes  uint64 `json:"alloc_bytes"`
	FreedBlocks uint64 `json:"freed_blocks"`
	FreedBytes  uint64 `json:"freed_bytes"`
}

func totalsJSON(name string, t profiler.Totals) totalsValue {
	return totalsValue{name, t.LiveBlocks, t.LiveBytes, t.AllocBlocks, t.AllocBytes, t.FreedBlocks, t.FreedBytes}
}

type statusValue struct {
	Pid                int            `json:"pid"`
	State              profiler.State `json:"state"`
	Python             *pythonValue   `json:"python"`
	Since              *time.Time     `json:"since"`
	SampleBytes        uint64         `json:"sample_bytes"`
	Totals             []totalsValue  `json:"totals"`
	Total              totalsValue    `json:"total"`
	UnseenFrees        uint64         `json:"unseen_frees"`
	Stacks             uint64         `json:"stacks"`
	CodeObjects        uint64         `json:"code_objects"`
	Threads            uint64         `json:"threads"`
	AgentTextBytes     uint64         `json:"agent_text_bytes"`
	AgentTablesBytes   uint64         `json:"agent_tables_bytes"`
	AgentReservedBytes uint64         `json:"agent_reserved_bytes"`
	PeakBytes          uint64         `json:"peak_bytes"`
	ResidentBytes      uint64         `json:"resident_bytes"`
	Lost               uint64         `json:"lost"`
	Follows            bool           `json:"follows"`
	Followed           uint64         `json:"followed"`
	NotFollowed        uint64         `json:"not_followed"`
	Parent             int            `json:"parent"`
	NotSeen            []string       `json:"not_seen"`
	Memory             *memoryValue   `json:"memory"`
	OnSignal           *outletValue   `json:"on_signal"`
}

type outletValue struct {
	Signal  string         `json:"signal"`
	Pattern string         `json:"pattern"`
	Written uint64         `json:"written"`
	Failed  uint64         `json:"failed"`
	Passed  uint64         `json:"passed"`
	Error   string         `json:"error"`
	Last    string         `json:"last"`
	Place   profiler.Place `json:"place"`
}

func outletJSON(o *profiler.OutletStatus) *outletValue {
	if o == nil {
		return nil
	}
	v := &outletValue{profiler.SignalName(o.Signal), o.Pattern, o.Written, o.Failed, o.Passed, "", o.Last, o.Place}
	if o.Error != nil {
		v.Error = o.Error.Error()
	}
	return v
}

type memoryValue struct {
	RSSBytes         uint64 `json:"rss_bytes"`
	TrackedBytes     uint64 `json:"tracked_bytes"`
	BesideBytes      uint64 `json:"beside_bytes"`
	FilesCleanBytes  uint64 `json:"files_clean_bytes"`
	FilesDirtyBytes  uint64 `json:"files_dirty_bytes"`
	StacksBytes      uint64 `json:"stacks_bytes"`
	SharedBytes      uint64 `json:"shared_bytes"`
	HeaptapBytes     uint64 `json:"heaptap_bytes"`
	UnexplainedBytes uint64 `json:"unexplained_bytes"`
	FilesSharedBytes uint64 `json:"files_shared_bytes"`
	AbsentBytes      uint64 `json:"absent_bytes"`
	SwappedBytes     uint64 `json:"swapped_bytes"`
	HeapGrowthBytes  int64  `json:"heap_growth_bytes"`
}

func memoryJSON(m *profiler.Memory) *memoryValue {
	if m == nil {
		return nil
	}
	return &memoryValue{m.RSS, m.Tracked, m.Beside, m.FilesClean, m.FilesDirty, m.Stacks, m.Shared, m.Heaptap, m.Unexplained,
		m.FilesShared, m.Absent, m.Swapped, m.HeapGrowth}
}

func statusJSON(s *profiler.Status) statusValue {
	v := statusValue{
		Pid: s.Pid, State: s.State, Python: pythonJSON(s.Python), SampleBytes: s.SampleBytes, Totals: []totalsValue{},
		Total: totalsJSON("", sumTotals(s.Totals)), UnseenFrees: s.UnseenFrees, Stacks: s.Stacks, CodeObjects: s.CodeObjects,
		Threads: s.Threads, AgentTextBytes: s.AgentText, AgentTablesBytes: s.AgentTables, AgentReservedBytes: s.AgentReserved,
		Lost: s.Lost, NotSeen: list(s.NotSeen), PeakBytes: s.PeakBytes, ResidentBytes: s.Resident, Memory: memoryJSON(s.Memory),
		OnSignal: outletJSON(s.OnSignal),
		Follows:  s.Follows, Followed: s.Followed, NotFollowed: s.NotFollowed, Parent: s.Parent,
	}
	if !s.Since.IsZero() {
		v.Since = &s.Since
	}
	for _, t := range s.Totals {
		v.Totals = append(v.Totals, totalsJSON(t.Domain.String(), t))
	}
	return v
}

type dumpValue struct {
	Pid        int       `json:"pid"`
	Path       string    `json:"path"`
	FileBytes  int64     `json:"file_bytes"`
	Time       time.Time `json:"time"`
	LiveBlocks int64     `json:"live_blocks"`
	LiveBytes  int64     `json:"live_bytes"`
	PauseNS    int64     `json:"pause_ns"`
	TookNS     int64     `json:"took_ns"`
	Notes      []string  `json:"notes"`
}

func dumpJSON(pid int, path string, size int64, d *profiler.Dump) dumpValue {
	total := d.Snapshot.Total()
	return dumpValue{
		Pid: pid, Path: path, FileBytes: size, Time: d.Snapshot.Time, LiveBlocks: total[heap.InuseBlocks],
		LiveBytes: total[heap.InuseBytes], PauseNS: int64(d.Pause), TookNS: int64(d.Took), Notes: list(d.Notes),
	}
}

type detachmentValue struct {
	Pid      int      `json:"pid"`
	Restored int      `json:"restored"`
	Slots    int      `json:"slots"`
	Foreign  []string `json:"foreign"`
	Unmapped bool     `json:"unmapped"`
	Why      string   `json:"why"`
	PauseNS  int64    `json:"pause_ns"`
}

func detachmentJSON(pid int, d *profiler.Detachment) detachmentValue {
	return detachmentValue{pid, d.Restored, d.Slots, list(d.Foreign), d.Unmapped, d.Why, int64(d.Pause)}
}

type checkValue struct {
	Name     string           `json:"name"`
	Verdict  profiler.Verdict `json:"verdict"`
	Fact     string           `json:"fact"`
	WayRound string           `json:"way_round"`
}

type checksValue struct {
	Pid     *int         `json:"pid"`
	Blocked int          `json:"blocked"`
	Checks  []checkValue `json:"checks"`
}

func checksJSON(pid int, checks []profiler.Check) checksValue {
	v := checksValue{Blocked: blocked(checks), Checks: make([]checkValue, 0, len(checks))}
	if pid != 0 {
		v.Pid = &pid
	}
	for _, c := range checks {
		v.Checks = append(v.Checks, checkValue{c.Name, c.Verdict, c.Fact, c.WayRound})
	}
	return v
}

// list makes JSON show an empty list rather than null.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
