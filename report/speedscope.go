package report

import (
	"encoding/json"
	"io"
	"slices"

	"github.com/heaptap/heaptap/heap"
)

// SpeedscopeOptions say what [Speedscope] writes.
type SpeedscopeOptions struct {
	Metric heap.Metric // the first profile; the second has the same blocks in the other unit
	Name   string      // of the whole, shown as title; "" for "heap"
}

// Shapes of speedscope's file format, https://www.speedscope.app/file-format-schema.json.
type (
	speedscopeFile struct {
		Schema   string              `json:"$schema"`
		Exporter string              `json:"exporter"`
		Name     string              `json:"name"`
		Active   int                 `json:"activeProfileIndex"`
		Shared   speedscopeShared    `json:"shared"`
		Profiles []speedscopeProfile `json:"profiles"`
	}
	speedscopeShared struct {
		Frames []speedscopeFrame `json:"frames"`
	}
	speedscopeFrame struct {
		Name string `json:"name"`
		File string `json:"file,omitempty"`
		Line int    `json:"line,omitempty"`
	}
	speedscopeProfile struct {
		Type    string    `json:"type"`
		Name    string    `json:"name"`
		Unit    string    `json:"unit"`
		Start   int64     `json:"startValue"`
		End     int64     `json:"endValue"`
		Samples [][]int32 `json:"samples"` // frames, outermost first
		Weights []int64   `json:"weights"`
	}
)

// Speedscope writes a file for https://www.speedscope.app with two profiles, bytes and blocks.
func Speedscope(w io.Writer, s *heap.Snapshot, o SpeedscopeOptions) error {
	name := o.Name
	if name == "" {
		name = "heap"
	}
	file := speedscopeFile{
		Schema: "https://www.speedscope.app/file-format-schema.json", Exporter: "heaptap", Name: name,
		Shared: speedscopeShared{Frames: []speedscopeFrame{}},
	}
	for _, f := range s.Frames {
		file.Shared.Frames = append(file.Shared.Frames, speedscopeFrame{Name: function(f), File: fileOf(f), Line: f.Line})
	}
	noStack := int32(len(file.Shared.Frames))
	file.Shared.Frames = append(file.Shared.Frames, speedscopeFrame{Name: noStackName})
	for _, m := range [...]heap.Metric{o.Metric, o.Metric.Other()} {
		file.Profiles = append(file.Profiles, speedscopeProfileOf(s, m, noStack))
	}
	out := newOutput(w, "speedscope")
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	// What goes wrong is the writer's fault, whose error sticks: the value itself can always be encoded.
	_ = e.Encode(file)
	return out.flush()
}

func speedscopeProfileOf(s *heap.Snapshot, m heap.Metric, noStack int32) speedscopeProfile {
	p := speedscopeProfile{
		Type: "sampled", Name: state(m) + " bytes", Unit: "bytes", End: s.Total()[m], Samples: [][]int32{},
		Weights: []int64{},
	}
	if !m.Bytes() {
		p.Name, p.Unit = state(m)+" blocks", "none"
	}
	if v := s.Stackless()[m]; v > 0 {
		p.Samples, p.Weights = append(p.Samples, []int32{noStack}), append(p.Weights, v)
	}
	for i, own := range s.OwnByStack() {
		if own[m] == 0 {
			continue
		}
		var frames []int32
		for n := int32(i); n != heap.None; n = s.Stacks[n].Parent {
			frames = append(frames, s.Stacks[n].Frame)
		}
		slices.Reverse(frames)
		p.Samples, p.Weights = append(p.Samples, frames), append(p.Weights, own[m])
	}
	return p
}
