package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that was measured.
type report struct {
	Environment host        `json:"environment"`
	Tools       []*entry    `json:"tools"`
	Scenarios   []*scenario `json:"scenarios"`
	Results     []result    `json:"results"`
	LeftOut     []string    `json:"left_out,omitempty"` // scenarios, and why
}

// host is where it was measured.
type host struct {
	Date       time.Time `json:"date"`
	OS         string    `json:"os"`
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	Go         string    `json:"go"`
	FileSystem string    `json:"file_system"`
	Load       float64   `json:"load"` // load average when the program began
}

// scenario is what was measured in one.
type scenario struct {
	Name    string              `json:"name"`
	Title   string              `json:"title"`
	Data    string              `json:"data"`
	Tools   []*entry            `json:"-"`                // those measured, if others than the report's
	Growth  []growth            `json:"growth,omitempty"` // by round
	Samples map[string][]sample `json:"samples"`          // by tool
	Failed  map[string]string   `json:"failed"`           // by tool: why
}

// growth is what a round added to the data, and how much an incremental may read.
type growth struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	Limit int64 `json:"limit_bytes"`
}

func (r *report) add(name, title, data string) *scenario {
	s := newScenario(name, title, data)
	r.Scenarios = append(r.Scenarios, s)
	return s
}

func newScenario(name, title, data string) *scenario {
	return &scenario{Name: name, Title: title, Data: data, Samples: map[string][]sample{}, Failed: map[string]string{}}
}

// slow reports whether a tool took so long that it isn't measured again.
func (s *scenario) slow(tool string, limit time.Duration) bool {
	list := s.Samples[tool]
	return len(list) > 0 && list[0].Wall > limit.Seconds()
}

// target is a ratio to reach: how many times as long as Slipcover a tool takes.
type target struct {
	scenario, tool string
	times          float64
}

// targets are the project's.
var targets = []target{
	{"full", "tar|zstd -1", 1}, {"full", "kopia", 1.4}, {"full", "restic", 2.2}, {"full", "tar|gzip|openssl", 12},
	{"incremental", "kopia", 25}, {"incremental", "restic", 30},
	{"restore", "tar|zstd -1", 1}, {"restore", "kopia", 2}, {"restore", "restic", 1.9},
	{"verify", "kopia", 1.2}, {"verify", "restic", 1.3},
	{"small-full", "tar|zstd -1", 0.5}, {"small-unchanged", "kopia", 1.5},
}

// maxRSS is the most memory that a backup may take.
const maxRSS = 128 << 20

// result is a comparison with a tool, or a bound, and whether the target is met.
type result struct {
	Scenario string  `json:"scenario"`
	Tool     string  `json:"tool,omitempty"`
	What     string  `json:"what,omitempty"` // of a bound
	Best     float64 `json:"best,omitempty"` // ratio of the best wall times
	Median   float64 `json:"median,omitempty"`
	CPU      float64 `json:"cpu,omitempty"`
	Value    int64   `json:"value,omitempty"` // of a bound, in bytes
	Target   float64 `json:"target,omitempty"`
	Verdict  string  `json:"verdict"`
}

// judge compares every tool with Slipcover, the first of the tools.
func (r *report) judge() {
	r.Results = []result{}
	for _, sc := range r.Scenarios {
		if sc.Tools != nil {
			r.judgeSwift(sc)
			continue
		}
		ours := sc.Samples[r.Tools[0].Name]
		if len(ours) == 0 {
			continue
		}
		for _, e := range r.Tools[1:] {
			r.compare(sc, e, ours)
		}
		r.bounds(sc, ours)
	}
}

func (r *report) compare(sc *scenario, e *entry, ours []sample) {
	i := slices.IndexFunc(targets, func(t target) bool { return t.scenario == sc.Name && t.tool == e.Name })
	res := result{Scenario: sc.Title, Tool: e.Name, Verdict: "no target"}
	if i >= 0 {
		res.Target = targets[i].times
	}
	theirs := sc.Samples[e.Name]
	switch {
	case sc.Failed[e.Name] != "":
		res.Verdict = sc.Failed[e.Name]
	case len(theirs) > 0:
		res.Best, res.Median, res.CPU = ratio(best, wall, theirs, ours), ratio(median, wall, theirs, ours), ratio(best, sample.cpu, theirs, ours)
		if i >= 0 {
			res.Verdict = verdict(res.Best, res.Target)
		}
	case e.Missing != "":
		res.Verdict = e.Missing
	default:
		return // it has no such thing
	}
	r.Results = append(r.Results, res)
}

// bounds holds Slipcover's memory and reading against what it may take.
func (r *report) bounds(sc *scenario, ours []sample) {
	if rss := most(ours, func(s sample) int64 { return s.PeakRSS }); rss > 0 {
		r.Results = append(r.Results, bound(sc.Title, "most memory of slipcover", rss, maxRSS))
	}
	if sc.Name != "incremental" {
		return
	}
	for i, s := range ours {
		g := sc.Growth[i]
		what := fmt.Sprintf("source read by slipcover, %s grown in %d files", bytesText(g.Bytes), g.Files)
		r.Results = append(r.Results, bound(sc.Title, what, s.SourceRead, g.Limit))
	}
}

func bound(scenario, what string, value, limit int64) result {
	res := result{Scenario: scenario, What: what, Value: value, Target: float64(limit), Verdict: "reached"}
	if value > limit {
		res.Verdict = "missed by " + bytesText(value-limit)
	}
	return res
}

func verdict(got, want float64) string {
	if got >= want {
		return "reached"
	}
	return fmt.Sprintf("missed by %.0f %%", (1-got/want)*100)
}

func wall(s sample) float64 { return s.Wall }

func ratio(of func([]sample, func(sample) float64) float64, v func(sample) float64, theirs, ours []sample) float64 {
	return of(theirs, v) / max(of(ours, v), 1e-6)
}

func values(list []sample, v func(sample) float64) []float64 {
	out := make([]float64, len(list))
	for i, s := range list {
		out[i] = v(s)
	}
	slices.Sort(out)
	return out
}

func best(list []sample, v func(sample) float64) float64 { return values(list, v)[0] }

func median(list []sample, v func(sample) float64) float64 {
	l := values(list, v)
	return (l[(len(l)-1)/2] + l[len(l)/2]) / 2
}

func most(list []sample, v func(sample) int64) int64 {
	var m int64
	for _, s := range list {
		m = max(m, v(s))
	}
	return m
}

// print writes the report as text.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	h := r.Environment
	fmt.Fprintf(t, "date\t%s\nmachine\t%s, %d cores, %s, %s; load average %.1f at the beginning\nfile system\t%s\n",
		h.Date.Format(time.RFC3339), h.CPU, h.Cores, h.OS, h.Go, h.Load, h.FileSystem)
	for _, e := range r.Tools {
		text := e.Version
		if e.Missing != "" {
			text = e.Missing
		}
		fmt.Fprintf(t, "%s\t%s\n", e.Name, text)
	}
	for _, sc := range r.Scenarios {
		fmt.Fprintf(t, "\n%s: %s\n", sc.Title, sc.Data)
		r.samples(t, sc)
	}
	for _, why := range r.LeftOut {
		fmt.Fprintf(t, "\nleft out: %s\n", why)
	}
	fmt.Fprintf(t, "\nTimes as long as slipcover\n\nscenario\tbeside\tbest\tmedian\tCPU\ttarget\t\n")
	for _, v := range r.Results {
		if v.Tool != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Scenario, v.Tool, times(v.Best), times(v.Median), times(v.CPU), times(v.Target), v.Verdict)
		}
	}
	fmt.Fprintf(t, "\nBounds\n\nscenario\tof what\tmost\tbound\t\n")
	for _, v := range r.Results {
		if v.Tool == "" {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Scenario, v.What, bytesText(v.Value), bytesText(int64(v.Target)), v.Verdict)
		}
	}
	return t.Flush()
}

func (r *report) samples(t io.Writer, sc *scenario) {
	fmt.Fprint(t, "\n\twall best\tmedian\tCPU best\tmedian\tmemory\tread\tof the source\tstored\truns\tload\n")
	tools := r.Tools
	if sc.Tools != nil {
		tools = sc.Tools
	}
	for _, e := range tools {
		list := sc.Samples[e.Name]
		if why := sc.Failed[e.Name]; why != "" {
			fmt.Fprintf(t, "%s\t%s\n", e.Name, why)
			continue
		}
		if len(list) == 0 {
			continue
		}
		last := list[len(list)-1]
		loads := values(list, func(s sample) float64 { return s.Load })
		fmt.Fprintf(t, "%s\t%.2f s\t%.2f s\t%.2f s\t%.2f s\t%s\t%s\t%s\t%s\t%d\t%.1f-%.1f\n", e.Name, best(list, wall), median(list, wall),
			best(list, sample.cpu), median(list, sample.cpu), orUnknown(most(list, func(s sample) int64 { return s.PeakRSS })),
			orUnknown(last.Read), orUnknown(last.SourceRead), bytesText(last.Stored), len(list), loads[0], loads[len(loads)-1])
	}
}

func times(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// orUnknown prints a number of bytes that some programs and systems don't tell.
func orUnknown(n int64) string {
	if n <= 0 {
		return "-"
	}
	return bytesText(n)
}

func bytesText(n int64) string {
	if n < 0 {
		return "-" + bytesText(-n)
	}
	v, units := float64(n), strings.Fields("B KiB MiB GiB TiB")
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[0])
}
