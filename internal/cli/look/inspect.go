package look

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/manifest"
)

type inspectOptions struct {
	file       string
	verify     bool
	headers    bool
	at         int64
	doc        string
	rev        string
	attachment string
}

func newInspect(env *core.Env) *cobra.Command {
	o := &inspectOptions{}
	c := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a .couch or .view file holds",
		Long: `Show what a .couch or .view file holds: its newest header, sizes, counts and trees; all points in time it can
be cut to; or one document, as the server's JSON. The file is only read; the server may have it open.`,
		Args: core.Arguments(1, 1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return runInspect(cmd.Context(), env, o)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.verify, "verify", false, "read everything and check every checksum and tree; exit code 4 if something is wrong")
	f.BoolVar(&o.headers, "headers", false, "list all headers: the points in time that are in the file")
	f.Int64Var(&o.at, "at", -1, "look at the state as of the header at this `OFFSET` in place of the newest")
	f.StringVar(&o.doc, "doc", "", "print the document with this `ID` as JSON")
	f.StringVar(&o.rev, "rev", "", "with --doc: this revision instead of the winner")
	f.StringVar(&o.attachment, "attachment", "", "with --doc: write the bytes of the attachment of this `NAME` to standard output")
	return c
}

func (o *inspectOptions) check() error {
	switch {
	case o.doc == "" && (o.rev != "" || o.attachment != ""):
		return core.Usage("--rev and --attachment go with --doc ID")
	case o.doc != "" && (o.verify || o.headers):
		return core.Usage("--doc shows a document and goes with neither --verify nor --headers")
	case o.at < -1 || o.at > 0 && o.at%couchfile.BlockSize != 0:
		return core.Usage("--at %d is not the offset of a header: those are multiples of %d; --headers lists them",
			o.at, couchfile.BlockSize)
	}
	return nil
}

func runInspect(ctx context.Context, env *core.Env, o *inspectOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	file, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer file.Close()
	f := couchfile.WithContext(ctx, file)
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return core.Usage("%s is not a file", o.file)
	}
	if o.doc != "" {
		return o.document(env, f, info.Size())
	}
	r, err := o.look(f, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	if o.headers {
		if r.Headers, err = listHeaders(f, info.Size()); err != nil {
			return fmt.Errorf("%s: %w", o.file, err)
		}
	}
	if o.verify {
		if r.Verify, err = verifyFile(ctx, f, r.end()); err != nil {
			return fmt.Errorf("%s: %w", o.file, err)
		}
	}
	if err := r.print(env); err != nil {
		return err
	}
	if r.Verify != nil && !r.Verify.OK {
		return core.Say(core.ErrProblem, "%s has %s", o.file, core.Count(len(r.Verify.Findings), "finding"))
	}
	return nil
}

// document prints one document or attachment.
func (o *inspectOptions) document(env *core.Env, f io.ReaderAt, size int64) error {
	db, err := o.open(f, size)
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	return showDocument(env, db, o.doc, o.rev, o.attachment)
}

// showDocument prints a document of a database, or of one of its shards, or writes an attachment.
func showDocument(env *core.Env, db *couchfile.DB, id, rev, attachment string) error {
	if attachment != "" {
		r, _, err := openAttachment(db, id, rev, attachment)
		if err != nil {
			return err
		}
		_, err = io.Copy(env.Stdout, r)
		return err
	}
	if strings.HasPrefix(id, "_local/") {
		d, err := db.LocalDoc(id)
		if err != nil {
			return err
		}
		b, err := d.JSON()
		if err != nil {
			return err
		}
		return printDocument(env.Stdout, b)
	}
	b, err := db.Doc(id, couchfile.DocOptions{Rev: rev})
	if errors.Is(err, couchfile.ErrDeleted) {
		return fmt.Errorf("%w; --rev REV shows a revision of it%s", err, lastRevision(db, id))
	}
	if err != nil {
		return err
	}
	return printDocument(env.Stdout, b)
}

// lastRevision says which revision a deleted document had before, if that is known.
func lastRevision(db *couchfile.DB, id string) string {
	info, err := db.DocInfo(id)
	if err != nil {
		return ""
	}
	w := info.Winner()
	history := info.History(w.Rev)
	if len(history) < 2 {
		return ""
	}
	return fmt.Sprintf(", such as %d-%s, the one before it was deleted", w.Pos-1, history[1])
}

func printDocument(w io.Writer, b []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}

// openAttachment opens an attachment, decoded, of a document's revision, or of
// the winner.
func openAttachment(db *couchfile.DB, id, rev, name string) (io.Reader, couchfile.Attachment, error) {
	none := couchfile.Attachment{}
	info, err := db.DocInfo(id)
	if err != nil {
		return nil, none, err
	}
	r := info.Winner()
	if rev != "" {
		want, err := couchfile.ParseRev(rev)
		if err != nil {
			return nil, none, core.Say(core.ErrUsage, "%s", err)
		}
		var ok bool
		if r, ok = info.Revision(want); !ok {
			return nil, none, fmt.Errorf("document %q rev %s: %w", id, rev, couchfile.ErrNotFound)
		}
	}
	atts, err := db.Attachments(id, r)
	if err != nil {
		return nil, none, err
	}
	for _, a := range atts {
		if a.Name == name {
			rd, err := db.OpenDecoded(a)
			return rd, a, err
		}
	}
	return nil, none, fmt.Errorf("attachment %q of document %q: %w", name, id, couchfile.ErrNotFound)
}

func (o *inspectOptions) open(f io.ReaderAt, size int64) (*couchfile.DB, error) {
	if o.at >= 0 {
		return couchfile.OpenOffset(f, size, o.at)
	}
	return couchfile.Open(f, size)
}

func verifyFile(ctx context.Context, f io.ReaderAt, size int64) (*verifyReport, error) {
	report, err := couchfile.Verify(ctx, f, size, couchfile.VerifyOptions{})
	if err != nil {
		return nil, err
	}
	out := &verifyReport{OK: report.OK(), Docs: report.Docs, Bodies: report.Bodies, Attachments: report.Attachments,
		LiveBytes: report.LiveBytes,
		Findings:  []findingReport{}, MoreFindings: report.Dropped}
	for _, f := range report.Findings {
		out.Findings = append(out.Findings, findingReport{f.Offset, f.What, f.Doc, f.Rev})
	}
	return out, nil
}

// inspection is what inspect shows.
type inspection struct {
	File      string       `json:"file"`
	Kind      string       `json:"kind"` // "database" or "view"
	SizeBytes int64        `json:"size_bytes"`
	Header    headerReport `json:"header"`
	// Behind is how many bytes follow the header: writes that no commit covers, or
	// newer states when an older one is looked at.
	Behind   int64          `json:"bytes_behind_header"`
	Database *databaseFacts `json:"database,omitempty"`
	View     *viewFacts     `json:"view,omitempty"`
	Trees    []treeReport   `json:"trees"`
	Headers  []headerReport `json:"headers,omitempty"`
	Verify   *verifyReport  `json:"verify,omitempty"`
}

func (r *inspection) end() int64 { return r.Header.End }

type headerReport struct {
	Offset    int64  `json:"offset"`
	End       int64  `json:"end"`
	Checksum  string `json:"checksum"`
	Kind      string `json:"kind"`
	UpdateSeq uint64 `json:"update_seq"`
	PurgeSeq  uint64 `json:"purge_seq"`
	Docs      uint64 `json:"docs"`
	Deleted   uint64 `json:"deleted_docs"`
	// History says that the database was once in this state, so that the file can
	// be cut here; states in the middle of a compaction are not.
	History bool `json:"history"`
}

type databaseFacts struct {
	DiskVersion     int           `json:"disk_version"`
	UUID            string        `json:"uuid"`
	Docs            uint64        `json:"docs"`
	Deleted         uint64        `json:"deleted_docs"`
	UpdateSeq       uint64        `json:"update_seq"`
	PurgeSeq        uint64        `json:"purge_seq"`
	CompactedSeq    uint64        `json:"compacted_seq"`
	ActiveBytes     int64         `json:"active_bytes"`   // -1 if an old file doesn't say
	ExternalBytes   int64         `json:"external_bytes"` // -1 if an old file doesn't say
	RevsLimit       uint64        `json:"revs_limit"`
	PurgeInfosLimit uint64        `json:"purge_infos_limit"`
	Partitioned     bool          `json:"partitioned"`
	Epochs          []epochReport `json:"epochs"`
}

type epochReport struct {
	Node      string `json:"node"`
	UpdateSeq uint64 `json:"update_seq"`
}

type viewFacts struct {
	Signature string `json:"signature"`
	UpdateSeq uint64 `json:"update_seq"`
	PurgeSeq  uint64 `json:"purge_seq"`
	Fresh     bool   `json:"fresh"`
}

type treeReport struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`     // of the root; -1 if the tree is empty
	Size   int64  `json:"size_bytes"` // of its nodes; -1 if an old file doesn't say
}

type verifyReport struct {
	OK           bool            `json:"ok"`
	Docs         uint64          `json:"docs"`
	Bodies       uint64          `json:"bodies_read"`
	Attachments  uint64          `json:"attachments_read"`
	LiveBytes    int64           `json:"live_bytes"` // that the state refers to
	Findings     []findingReport `json:"findings"`
	MoreFindings int             `json:"more_findings"`
}

type findingReport struct {
	Offset int64  `json:"offset"`
	What   string `json:"what"`
	Doc    string `json:"doc,omitempty"`
	Rev    string `json:"rev,omitempty"`
}

func (o *inspectOptions) look(f io.ReaderAt, size int64) (*inspection, error) {
	r := &inspection{File: o.file, SizeBytes: size}
	raw, err := o.header(f, size)
	if err != nil {
		return nil, err
	}
	r.Header = headerReport{Offset: raw.Offset, End: raw.End, Checksum: raw.Checksum.String(), Kind: raw.Kind.String(),
		History: true}
	r.Behind = size - raw.End
	if raw.Kind == couchfile.HeaderView {
		return r, r.lookView(raw)
	}
	return r, r.lookDatabase(f, size, raw)
}

func (o *inspectOptions) header(f io.ReaderAt, size int64) (couchfile.RawHeader, error) {
	if o.at >= 0 {
		return couchfile.ReadHeader(f, size, o.at)
	}
	return couchfile.FindHeader(f, size)
}

func (r *inspection) lookDatabase(f io.ReaderAt, size int64, raw couchfile.RawHeader) error {
	h, err := couchfile.ParseHeader(raw)
	if err != nil {
		return err
	}
	db, err := couchfile.OpenAt(f, size, h)
	if err != nil {
		return err
	}
	info, err := db.Info()
	if err != nil {
		return err
	}
	partitioned, err := db.Partitioned()
	if err != nil {
		return err
	}
	r.Kind = "database"
	r.Database = &databaseFacts{DiskVersion: h.DiskVersion, UUID: h.UUID, Docs: info.DocCount, Deleted: info.DeletedCount,
		UpdateSeq: info.UpdateSeq, PurgeSeq: info.PurgeSeq, CompactedSeq: info.CompactedSeq, ActiveBytes: info.ActiveSize,
		ExternalBytes: info.ExternalSize, RevsLimit: h.RevsLimit, PurgeInfosLimit: h.PurgeInfosLimit, Partitioned: partitioned,
		Epochs: []epochReport{}}
	for _, e := range h.Epochs {
		r.Database.Epochs = append(r.Database.Epochs, epochReport{e.Node, e.UpdateSeq})
	}
	r.Header.fill(info)
	r.Trees = trees(
		named{"id", h.IDTree}, named{"seq", h.SeqTree}, named{"local", h.LocalTree},
		named{"purge", h.PurgeTree}, named{"purge_seq", h.PurgeSeqTree})
	return nil
}

func (r *inspection) lookView(raw couchfile.RawHeader) error {
	h, err := couchfile.ParseViewHeader(raw)
	if err != nil {
		return err
	}
	r.Kind = "view"
	r.View = &viewFacts{Signature: h.Signature, UpdateSeq: h.UpdateSeq, PurgeSeq: h.PurgeSeq, Fresh: h.Fresh}
	r.Header.UpdateSeq, r.Header.PurgeSeq = h.UpdateSeq, h.PurgeSeq
	list := []named{{"id", h.IDTree}}
	for i, v := range h.Views {
		list = append(list, named{"view " + strconv.Itoa(i), v.Tree})
	}
	r.Trees = trees(list...)
	return nil
}

func (h *headerReport) fill(info couchfile.Info) {
	h.UpdateSeq, h.PurgeSeq, h.Docs, h.Deleted = info.UpdateSeq, info.PurgeSeq, info.DocCount, info.DeletedCount
}

type named struct {
	name string
	root couchfile.TreeRoot
}

func trees(list ...named) []treeReport {
	out := make([]treeReport, len(list))
	for i, n := range list {
		out[i] = treeReport{n.name, n.root.Offset, n.root.Size}
		if n.root.Empty {
			out[i].Offset, out[i].Size = -1, 0
		}
	}
	return out
}

// listHeaders lists all headers of a file, those of compactions too.
func listHeaders(f io.ReaderAt, size int64) ([]headerReport, error) {
	points, err := couchfile.Points(f, size)
	if err != nil {
		return nil, err
	}
	history := map[int64]bool{}
	for _, p := range points {
		history[p.Offset] = p.History
	}
	out := []headerReport{}
	err = couchfile.EachHeader(f, size, func(raw couchfile.RawHeader) error {
		h := headerReport{Offset: raw.Offset, End: raw.End, Checksum: raw.Checksum.String(), Kind: raw.Kind.String(),
			History: history[raw.Offset]}
		switch raw.Kind {
		case couchfile.HeaderDB:
			d, err := couchfile.ParseHeader(raw)
			if err != nil {
				break // listed all the same, without counts
			}
			h.UpdateSeq = d.UpdateSeq
			if db, err := couchfile.OpenAt(f, size, d); err == nil {
				if info, err := db.Info(); err == nil {
					h.fill(info)
				}
			}
		case couchfile.HeaderView:
			if v, err := couchfile.ParseViewHeader(raw); err == nil {
				h.UpdateSeq, h.PurgeSeq, h.History = v.UpdateSeq, v.PurgeSeq, true
			}
		}
		out = append(out, h)
		return nil
	})
	return out, err
}

func (r *inspection) print(env *core.Env) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, r)
	}
	w := env.Stdout
	list := []core.Fact{
		{"file", r.File},
		{"kind", r.Kind},
		{"size", core.Exact(r.SizeBytes)},
		{"header", fmt.Sprintf("at %d to %d, checksum %s", r.Header.Offset, r.Header.End, r.Header.Checksum)},
	}
	if r.Behind > 0 {
		list = append(list, core.Fact{"behind it", core.Exact(r.Behind) + " that this state does not cover"})
	}
	if err := core.Facts(w, append(list, r.facts()...)); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows := [][]string{}
	for _, t := range r.Trees {
		if t.Offset < 0 {
			rows = append(rows, []string{t.Name, "empty", ""})
			continue
		}
		rows = append(rows, []string{t.Name, strconv.FormatInt(t.Offset, 10), maybe(t.Size)})
	}
	if err := core.Table(w, []string{"TREE", "ROOT AT", "SIZE"}, rows); err != nil {
		return err
	}
	if err := r.printHeaders(w); err != nil {
		return err
	}
	return r.printVerify(w)
}

func (r *inspection) facts() []core.Fact {
	if v := r.View; v != nil {
		list := []core.Fact{{"signature", v.Signature}, {"update_seq", core.Num(v.UpdateSeq)},
			{"purge_seq", core.Num(v.PurgeSeq)}}
		if v.Fresh {
			list = append(list, core.Fact{"state", "nothing indexed yet"})
		}
		return list
	}
	d := r.Database
	list := []core.Fact{
		{"disk version", strconv.Itoa(d.DiskVersion)},
		{"uuid", d.UUID},
		{"documents", fmt.Sprintf("%d, and %d deleted", d.Docs, d.Deleted)},
		{"update_seq", core.Num(d.UpdateSeq)},
		{"purge_seq", core.Num(d.PurgeSeq)},
		{"compacted_seq", core.Num(d.CompactedSeq)},
		{"active", maybe(d.ActiveBytes)},
		{"external", maybe(d.ExternalBytes)},
		{"revs_limit", core.Num(d.RevsLimit)},
		{"purge_infos_limit", core.Num(d.PurgeInfosLimit)},
	}
	if d.Partitioned {
		list = append(list, core.Fact{"partitioned", "yes"})
	}
	for _, e := range d.Epochs {
		list = append(list, core.Fact{"written by", fmt.Sprintf("%s from update_seq %d on", e.Node, e.UpdateSeq)})
	}
	return list
}

func maybe(n int64) string {
	if n < 0 {
		return "not recorded"
	}
	return core.Exact(n)
}

func (r *inspection) printHeaders(w io.Writer) error {
	if r.Headers == nil {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, h := range r.Headers {
		note := ""
		if !h.History {
			note = "not a state the database was in: part of a compaction"
		}
		rows = append(rows, []string{strconv.FormatInt(h.Offset, 10), strconv.FormatInt(h.End, 10), h.Checksum,
			core.Num(h.UpdateSeq),
			core.Num(h.PurgeSeq), core.Num(h.Docs), core.Num(h.Deleted), note})
	}
	return core.Table(w, []string{"HEADER AT", "CUT TO", "CHECKSUM", "UPDATE_SEQ", "PURGE_SEQ", "DOCS", "DELETED", ""}, rows)
}

func (r *inspection) printVerify(w io.Writer) error {
	if r.Verify == nil {
		return nil
	}
	fmt.Fprintln(w)
	if r.Verify.OK {
		_, err := fmt.Fprintf(w, "verified: all trees, %s and %s are intact (%s in use)\n",
			core.Count(int(r.Verify.Bodies), "document body"),
			core.Count(int(r.Verify.Attachments), "attachment"), core.Size(r.Verify.LiveBytes))
		return err
	}
	for _, f := range r.Verify.Findings {
		fmt.Fprintf(w, "damage: %s\n", core.DamageText(manifest.Damage{Path: r.File, Offset: f.Offset, What: f.What,
			Doc: f.Doc, Rev: f.Rev}))
	}
	if r.Verify.MoreFindings > 0 {
		fmt.Fprintf(w, "damage: %d more\n", r.Verify.MoreFindings)
	}
	return nil
}
