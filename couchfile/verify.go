package couchfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// VerifyOptions says what Verify reads. The zero value reads everything that
// the newest header reaches, and what lies behind it.
type VerifyOptions struct {
	// Sample is the fraction of documents whose bodies and attachments are
	// read, above 0 up to 1; 0 means all. Trees are always read whole. The
	// choice depends on the ids alone.
	Sample float64

	SkipAttachments bool // do not read attachments
	SkipTail        bool // do not look behind the newest header

	// AllHeaders verifies the states of older headers too, as far as they
	// are history. It reads each node and body once, but remembers them, so
	// memory grows with the number of nodes of the file.
	AllHeaders bool

	MaxFindings int // further findings are only counted; 0 means 100
}

// Report is the result of Verify.
type Report struct {
	Kind   HeaderKind // HeaderDB or HeaderView
	Header Header     // the newest header, if Kind is HeaderDB
	View   ViewHeader // the newest header, if Kind is HeaderView

	Docs        uint64 // in the newest state, without deleted ones
	DeletedDocs uint64
	Bodies      uint64 // document bodies that were read
	Attachments uint64 // attachments that were read
	Headers     int    // states that were verified
	LiveBytes   int64  // bytes that were read and are part of a verified state
	TailBytes   int64  // bytes behind the newest header

	Findings []Finding
	Dropped  int // findings beyond MaxFindings
}

// OK says that nothing was found.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Verify checks a .couch or .view file, which of the two it sees by its
// newest header. Damage is no error: it goes into the report. The error is
// ErrNoHeader for a file without an intact header; ErrNotDatabase or
// ErrUnsupportedVersion if the newest one is nothing that can be verified;
// ctx's error; or that of reading.
//
// From the header it walks all trees and checks: block markers; lengths; the
// checksums of document bodies; that terms decompress and fill their bytes;
// that keys ascend and nodes name their children's last keys; sizes and
// reductions of every subtree; that the id and seq trees hold the same
// records, and the two purge trees; that leaf revisions have bodies of the
// size their record names; attachments' lengths and digests; and that no two
// of all these pieces overlap. Behind the header it runs a Scanner, whose
// anomalies are findings as well.
//
// Each piece is read once. What a forged file can make it cost is bounded by
// the bytes that the file really has, as the package says; if they are spent
// the last finding says so, and the run ends.
//
// A flipped bit in a local document, the security object, the props or the time_seq is
// only seen if it breaks decoding: nothing else protects them.
func Verify(ctx context.Context, r io.ReaderAt, size int64, opts VerifyOptions) (*Report, error) {
	r = WithContext(ctx, r)
	raw, err := FindHeader(r, size)
	if err != nil {
		return nil, err
	}
	v := newVerifier(ctx, r, size, opts)
	v.report.Kind = raw.Kind
	switch raw.Kind {
	case HeaderView:
		err = v.view(raw)
	default:
		err = v.database(r, raw)
	}
	if err == nil && !opts.SkipTail {
		err = v.tail(raw.End)
	}
	if err == nil {
		v.overlaps()
	}
	if err == nil {
		err = v.err
	}
	if err != nil {
		return nil, err
	}
	return &v.report, nil
}

// verifier is one run of Verify.
type verifier struct {
	ctx    context.Context
	opts   VerifyOptions
	src    *source
	report Report
	err    error // of reading or of ctx: ends the run

	budget *budget // of all that is read, once
	again  *budget // of what is read a second time, to find out where two trees differ
	spent  bool    // the budget is, which ended the run

	limit  int64 // end of the header whose state is walked
	state  string
	trees  spanList       // headers, objects and nodes
	docs   spanList       // summaries and attachments
	seen   map[int64]bool // security, props and time_seq chunks that were read
	body   summaryReader
	att    *attReader
	attOK  map[[2]uint64]bool // attachments that were read and found good or bad
	bodies map[int64]bool     // summaries that were read, with AllHeaders
	nodes  map[int64]subtree  // nodes that were read, with AllHeaders
	walk   int                // number of the tree that is walked
	levels []*nodeReader
	revs   revParser
}

// span is a range of the file that something refers to.
type span struct{ off, end int64 }

// spanList collects spans. Bodies are read in the order in which most of them
// lie in the file, so neighbours become one.
type spanList []span

func (l *spanList) add(off, end int64) {
	if n := len(*l); n > 0 && (*l)[n-1].end == off {
		(*l)[n-1].end = end
		return
	}
	*l = append(*l, span{off, end})
}

func newVerifier(ctx context.Context, r io.ReaderAt, size int64, opts VerifyOptions) *verifier {
	if opts.MaxFindings <= 0 {
		opts.MaxFindings = 100
	}
	v := &verifier{
		ctx: ctx, opts: opts, limit: size,
		src:   newSource(r, size, walkShift, walkFrames),
		attOK: map[[2]uint64]bool{}, seen: map[int64]bool{},
	}
	v.budget, v.again = newBudget(v.src), newBudget(v.src)
	v.body = newSummaryReader(v.budget)
	if opts.AllHeaders {
		v.bodies, v.nodes = map[int64]bool{}, map[int64]subtree{}
	}
	return v
}

// find records a finding.
func (v *verifier) find(f Finding) {
	if v.full() {
		v.report.Dropped++
		return
	}
	f.What, f.Doc, f.Rev = shorten(v.state+f.What), shorten(f.Doc), shorten(f.Rev)
	v.report.Findings = append(v.report.Findings, f)
}

// full says that findings are only counted from now on.
func (v *verifier) full() bool { return len(v.report.Findings) >= v.opts.MaxFindings }

// name is a document's id for a finding. An id may be as large as its node and
// have any number of findings.
func (v *verifier) name(id []byte) string {
	if v.full() {
		return ""
	}
	return string(id[:min(len(id), longestText+1)])
}

func (v *verifier) revName(r *rawRev) string {
	if v.full() {
		return ""
	}
	return Rev{r.pos, string(r.id[:min(len(r.id), longestText)])}.String()
}

// longestText bounds the texts of a finding, in bytes.
const longestText = 512

func shorten(s string) string {
	if len(s) <= longestText {
		return s
	}
	return strings.ToValidUTF8(s[:longestText], "") + "…"
}

// findErr records damage, or keeps any other error to end the run. It ends it
// too if the damage is that the budget is spent.
func (v *verifier) findErr(err error, f Finding) {
	if errors.Is(err, errBudget) {
		if v.spent {
			return
		}
		v.spent = true
	}
	if !errors.Is(err, ErrCorrupt) {
		if v.err == nil {
			v.err = err
		}
		return
	}
	var c *CorruptError
	if errors.As(err, &c) {
		if c.Offset > 0 || f.Offset == 0 { // else the error doesn't know
			f.Offset = c.Offset
		}
		f.What += c.What
		if c.Err != nil {
			f.What += ": " + c.Err.Error()
		}
	}
	f.Err = err
	v.find(f)
}

// stopped says that the run is to end.
func (v *verifier) stopped() bool {
	if v.err == nil {
		v.err = v.ctx.Err()
	}
	return v.err != nil || v.spent
}

// took notes that a chunk is part of the state.
func (v *verifier) took(list *spanList, c *chunk, what string) {
	list.add(c.off, c.end)
	if c.dirty {
		v.find(Finding{Offset: c.off, What: what + ": " + errMarker.Error(), Err: errMarker})
	}
	if c.off+c.raw() > v.limit {
		v.find(Finding{Offset: c.off, What: what + " lies behind the header that refers to it"})
	}
}

func (v *verifier) database(r io.ReaderAt, raw RawHeader) error {
	h, err := ParseHeader(raw)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	if err != nil {
		v.findErr(err, Finding{})
		return nil
	}
	v.report.Header = h
	c := v.dbState(h)
	v.report.Docs, v.report.DeletedDocs = c.Docs, c.Deleted
	if v.opts.AllHeaders && !v.stopped() {
		return v.olderStates(r, h)
	}
	return v.err
}

// olderStates verifies the headers before h that are history, newest first.
func (v *verifier) olderStates(r io.ReaderAt, h Header) error {
	points, err := Points(r, h.End)
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0 && !v.stopped(); i-- {
		if p := &points[i]; p.History && p.Offset < h.Offset {
			v.state = fmt.Sprintf("older state at update_seq %d: ", p.UpdateSeq)
			v.dbState(p.Header)
		}
	}
	v.state = ""
	return v.err
}

// dbState verifies what one header reaches.
func (v *verifier) dbState(h Header) Counts {
	v.limit = h.End
	v.report.Headers++
	v.trees.add(h.Offset, h.End)
	v.object(h.SecurityPtr, "security", func(t erlterm.Term) bool { _, err := erlterm.AppendObject(nil, t); return err == nil })
	v.object(h.PropsPtr, "props", func(t erlterm.Term) bool { _, ok := appendProps(nil, t); return ok })
	v.object(h.TimeSeqPtr, "time_seq", isTerm)
	seq := v.tree(h.SeqTree, &seqCheck)
	id := v.tree(h.IDTree, &idCheck)
	v.sameRecords(h, id, seq)
	v.tree(h.LocalTree, &localCheck)
	purge := v.tree(h.PurgeTree, &purgeCheck)
	purgeSeq := v.tree(h.PurgeSeqTree, &purgeSeqCheck)
	if purge.ok && purgeSeq.ok && purge.sum != purgeSeq.sum {
		v.find(Finding{Offset: max(h.PurgeTree.Offset, 0), What: "purge trees hold different purges"})
	}
	return id.red.Counts
}

// isTerm says that t is one whole term, whatever it says.
func isTerm(t erlterm.Term) bool {
	n, ok := erlterm.Size(t)
	return ok && n == len(t)
}

// object verifies a chunk that the header points to, whose term must be as isSound says.
func (v *verifier) object(off int64, what string, isSound func(erlterm.Term) bool) {
	if off < 0 || v.seen[off] {
		return
	}
	v.seen[off] = true
	r := chunkReader{src: v.src, budget: v.budget}
	c, err := r.readChecked(off, what)
	if err != nil {
		v.findErr(err, Finding{})
		return
	}
	v.took(&v.trees, &c, what)
	inf := inflater{budget: v.budget}
	t, err := inf.term(c.payload)
	if err == nil && !isSound(t) {
		err = errShape
	}
	if err != nil {
		v.findErr(corrupt(off, what, err), Finding{})
	}
}

// tail looks at what lies behind the newest header, which no state reaches.
func (v *verifier) tail(from int64) error {
	v.report.TailBytes = v.src.size - from
	const behind = "behind the newest header: "
	s := NewScanner(from)
	buf := make([]byte, min(backStep, v.report.TailBytes))
	for off := from; off < v.src.size && !v.stopped(); off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), v.src.size-off)]
		if err := v.budget.spend(off, "holes", int64(len(p))); err != nil {
			v.findErr(err, Finding{What: behind})
			return nil
		}
		if err := v.src.readFull(p, off); err != nil {
			return err
		}
		_, _ = s.Write(p)
	}
	if v.stopped() {
		return v.err
	}
	for _, f := range s.Anomalies() {
		f.What = behind + f.What
		v.find(f)
	}
	if !s.Synced() && len(s.Anomalies()) == 0 {
		v.find(Finding{Offset: s.start, What: behind + "torn " + s.item()})
	}
	v.report.Dropped += s.Dropped()
	return v.err
}
