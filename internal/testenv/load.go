package testenv

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LoadOptions say what to write. The zero value needs Databases only.
type LoadOptions struct {
	Databases []string      // which must exist
	Writers   int           // 4 if 0
	Duration  time.Duration // at most; 10 seconds if 0
	MaxWrites int           // of all writers; 100,000 if 0
	Pause     time.Duration // of a writer between two writes
	Seed      uint64        // of what is written; the order across writers is the clock's
	DocBytes  int           // about; 500 if 0
	// Of 100 writes, Updates (30 if 0) change a document, Deletes (5 if 0) delete
	// one, Attachments (5 if 0) store an attachment of AttachmentBytes (10,000 if 0).
	// The others create documents. Less than 0 is none.
	Updates, Deletes, Attachments int
	AttachmentBytes               int
	// Prefix of the documents' ids; "load" if empty. Two loads on the same
	// databases need different ones.
	Prefix string
}

// Write is one write that the server acknowledged.
type Write struct {
	DB, ID, Rev string
	Deleted     bool
	BodyHash    string // of the body, see BodyHash; empty for deletions
	// Attachments holds the SHA-256 in hex of all attachments of this revision.
	Attachments map[string]string
	Sent, Acked time.Time
}

// Journal is what a load wrote. Acknowledged writes are in it, complete, as soon
// as the server answered.
type Journal struct {
	mu     sync.Mutex
	writes []Write
	// unsure holds, under "db/id", writes without an answer: the server may or may
	// not have done them.
	unsure map[string][]Write
	errs   []error
}

// Writes returns all writes so far, in order of their acknowledgement.
func (j *Journal) Writes() []Write {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.writes)
}

// Errors returns what went wrong, at most the first 100. A load against a server
// that is killed has some.
func (j *Journal) Errors() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.errs)
}

func (j *Journal) acked(w Write) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.Acked = time.Now()
	j.writes = append(j.writes, w)
}

func (j *Journal) failed(w Write, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if Status(err) == 0 {
		key := w.DB + "/" + w.ID
		j.unsure[key] = append(j.unsure[key], w)
	}
	if len(j.errs) < 100 {
		j.errs = append(j.errs, fmt.Errorf("%s/%s: %w", w.DB, w.ID, err))
	}
}

// Running is a load at work.
type Running struct {
	Journal *Journal
	cancel  context.CancelFunc
	wait    sync.WaitGroup
}

// Stop ends the load after the writes under way, and waits for that.
func (r *Running) Stop() *Journal {
	r.cancel()
	r.wait.Wait()
	return r.Journal
}

// Wait waits until the load has done its time or its number of writes.
func (r *Running) Wait() *Journal {
	r.wait.Wait()
	r.cancel()
	return r.Journal
}

// Load starts writers. Each has its own documents, so that there are no conflicts,
// and writes one at a time. A writer goes on after an error: a server may be killed
// and started again under a load.
func (c *Client) Load(opts LoadOptions) *Running {
	opts.fill()
	ctx, cancel := context.WithTimeout(context.Background(), opts.Duration)
	r := &Running{Journal: &Journal{unsure: map[string][]Write{}}, cancel: cancel}
	left := &atomic.Int64{}
	left.Store(int64(opts.MaxWrites))
	for i := range opts.Writers {
		w := &writer{
			client: c, opts: opts, journal: r.Journal, n: i,
			rnd: rand.New(rand.NewPCG(opts.Seed, uint64(i))),
		}
		r.wait.Go(func() { w.run(ctx, left) })
	}
	return r
}

func (o *LoadOptions) fill() {
	o.Writers = cmp.Or(o.Writers, 4)
	o.Duration = cmp.Or(o.Duration, 10*time.Second)
	o.MaxWrites = cmp.Or(o.MaxWrites, 100_000)
	o.DocBytes = cmp.Or(o.DocBytes, 500)
	o.Updates = cmp.Or(o.Updates, 30)
	o.Deletes = cmp.Or(o.Deletes, 5)
	o.Attachments = cmp.Or(o.Attachments, 5)
	o.AttachmentBytes = cmp.Or(o.AttachmentBytes, 10_000)
	o.Prefix = cmp.Or(o.Prefix, "load")
}

type writer struct {
	client  *Client
	opts    LoadOptions
	journal *Journal
	rnd     *rand.Rand
	n       int
	created int
	docs    []Write // the newest state of each document that is not deleted
}

func (w *writer) run(ctx context.Context, left *atomic.Int64) {
	for ctx.Err() == nil && left.Add(-1) >= 0 {
		pause := w.opts.Pause
		if !w.step() {
			pause = max(pause, 20*time.Millisecond)
		}
		if pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
}

// step does one write; it says whether the server took it.
func (w *writer) step() bool {
	o := &w.opts
	p := w.rnd.IntN(100)
	if len(w.docs) == 0 || p >= max(0, o.Updates)+max(0, o.Deletes)+max(0, o.Attachments) {
		return w.create()
	}
	i := w.rnd.IntN(len(w.docs))
	switch {
	case p < o.Deletes:
		return w.remove(i)
	case p < max(0, o.Deletes)+o.Attachments:
		return w.attach(i)
	default:
		return w.update(i)
	}
}

func (w *writer) create() bool {
	db := w.opts.Databases[w.rnd.IntN(len(w.opts.Databases))]
	id := fmt.Sprintf("%s-%02d-%06d", w.opts.Prefix, w.n, w.created)
	w.created++
	next := Write{DB: db, ID: id}
	if !w.put(&next, nil, "") {
		return false
	}
	w.docs = append(w.docs, next)
	return true
}

func (w *writer) update(i int) bool {
	next := w.docs[i]
	stubs := map[string]any{}
	for name := range next.Attachments {
		stubs[name] = map[string]any{"stub": true}
	}
	return w.settle(i, next, w.put(&next, stubs, next.Rev))
}

// put writes a new body.
func (w *writer) put(next *Write, stubs map[string]any, rev string) bool {
	body := w.body()
	next.BodyHash = BodyHash(body)
	if rev != "" {
		body["_rev"] = rev
	}
	if len(stubs) > 0 {
		body["_attachments"] = stubs
	}
	return w.send(next, http.MethodPut, DBPath(next.DB, next.ID), body)
}

func (w *writer) remove(i int) bool {
	next := w.docs[i]
	path := DBPath(next.DB, next.ID) + "?rev=" + url.QueryEscape(next.Rev)
	next.Deleted, next.BodyHash, next.Attachments = true, "", nil
	ok := w.send(&next, http.MethodDelete, path, nil)
	w.docs = slices.Delete(w.docs, i, i+1)
	return ok
}

func (w *writer) attach(i int) bool {
	next := w.docs[i]
	data := make([]byte, w.opts.AttachmentBytes)
	for i := range data {
		data[i] = byte(w.rnd.Uint32())
	}
	name := fmt.Sprintf("file-%d.bin", w.rnd.IntN(3))
	sum := sha256.Sum256(data)
	atts := map[string]string{name: hex.EncodeToString(sum[:])}
	for k, v := range next.Attachments {
		if k != name {
			atts[k] = v
		}
	}
	next.Attachments = atts
	path := DBPath(next.DB, next.ID, name) + "?rev=" + url.QueryEscape(next.Rev)
	return w.settle(i, next, w.send(&next, http.MethodPut, path, data))
}

// settle takes over the new state of document i. After an error its revision is
// unknown, so it is left alone from then on.
func (w *writer) settle(i int, next Write, ok bool) bool {
	if ok {
		w.docs[i] = next
	} else {
		w.docs = slices.Delete(w.docs, i, i+1)
	}
	return ok
}

// send is not cancelled with the load: a write under way gets its answer.
func (w *writer) send(next *Write, method, path string, body any) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	next.Sent = time.Now()
	var answer struct{ Rev string }
	err := w.client.Do(ctx, method, path, body, &answer)
	if err == nil && answer.Rev == "" {
		err = errors.New("an answer without a revision")
	}
	if err != nil {
		w.journal.failed(*next, err)
		return false
	}
	next.Rev = answer.Rev
	w.journal.acked(*next)
	return true
}

func (w *writer) body() map[string]any {
	words := []string{"red", "green", "blue", "north", "south", "order", "paid", "open", "late", "stock"}
	var text strings.Builder
	for n := w.opts.DocBytes/2 + w.rnd.IntN(w.opts.DocBytes+1); text.Len() < n; {
		fmt.Fprintf(&text, "%s %x ", words[w.rnd.IntN(len(words))], w.rnd.Uint32())
	}
	return map[string]any{
		"writer": w.n,
		"count":  w.rnd.IntN(1_000_000),
		"price":  float64(w.rnd.IntN(1_000_000)) / 100,
		"tags":   []string{words[w.rnd.IntN(len(words))], words[w.rnd.IntN(len(words))]},
		"text":   text.String(),
	}
}

// BodyHash is a hash over a document's JSON with sorted members and without those
// that start with "_". Numbers count as float64.
func BodyHash(doc map[string]any) string {
	clean := map[string]any{}
	for k, v := range doc {
		if !strings.HasPrefix(k, "_") {
			clean[k] = v
		}
	}
	p, err := json.Marshal(clean)
	if err == nil { // once through, so that int and float64, []string and []any agree
		var v any
		if err = json.Unmarshal(p, &v); err == nil {
			p, err = json.Marshal(v)
		}
	}
	if err != nil {
		return "not JSON: " + err.Error()
	}
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// State is a document as it is found after a restore.
type State struct {
	Rev         string
	Deleted     bool
	BodyHash    string            // empty if deleted
	Attachments map[string]string // SHA-256 in hex
}

// Compare holds what a restore gave against what was acknowledged. Everything that
// was acknowledged before cut, when the backup began, must be there; what was
// acknowledged later may be. So each document must be in the state of its last
// write before cut or in a later one, and complete. found returns a document,
// or false if the database doesn't know it, not even as deleted. The result is
// one line for each violation.
func (j *Journal) Compare(cut time.Time, found func(db, id string) (State, bool, error)) ([]string, error) {
	j.mu.Lock()
	history := map[string][]Write{}
	for _, w := range j.writes {
		key := w.DB + "/" + w.ID
		history[key] = append(history[key], w)
	}
	unsure := map[string][]Write{}
	for key, ws := range j.unsure {
		unsure[key] = slices.Clone(ws)
	}
	j.mu.Unlock()

	var wrong []string
	for key, ws := range history {
		got, ok, err := found(ws[0].DB, ws[0].ID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if line := judge(ws, unsure[key], cut, got, ok); line != "" {
			wrong = append(wrong, key+": "+line)
		}
	}
	slices.Sort(wrong)
	return wrong, nil
}

// judge says what is wrong with a document; ws are its writes, in order.
func judge(ws, unsure []Write, cut time.Time, got State, found bool) string {
	must := -1 // the last write that has to be there
	for i, w := range ws {
		if w.Acked.Before(cut) {
			must = i
		}
	}
	if !found {
		if must >= 0 {
			return fmt.Sprintf("lost, was acknowledged at revision %s %v before the cut", ws[must].Rev, cut.Sub(ws[must].Acked))
		}
		return ""
	}
	for i, w := range ws {
		if w.Rev == got.Rev {
			if i < must {
				return fmt.Sprintf("is at revision %s, but %s was acknowledged before the cut", got.Rev, ws[must].Rev)
			}
			return differs(w, got)
		}
	}
	for _, w := range unsure {
		if differs(w, got) == "" {
			return ""
		}
	}
	return fmt.Sprintf("is at revision %s, which nobody wrote", got.Rev)
}

func differs(w Write, got State) string {
	switch {
	case w.Deleted != got.Deleted:
		return fmt.Sprintf("revision %s: deleted is %v, want %v", w.Rev, got.Deleted, w.Deleted)
	case w.BodyHash != got.BodyHash:
		return fmt.Sprintf("revision %s: body hash is %s, want %s", w.Rev, got.BodyHash, w.BodyHash)
	case len(w.Attachments) != len(got.Attachments):
		return fmt.Sprintf("revision %s: %d attachments, want %d", w.Rev, len(got.Attachments), len(w.Attachments))
	}
	for name, hash := range w.Attachments {
		if got.Attachments[name] != hash {
			return fmt.Sprintf("revision %s: attachment %s has hash %q, want %s", w.Rev, name, got.Attachments[name], hash)
		}
	}
	return ""
}

// State reads a document for Compare, with all attachments.
func (c *Client) State(db, id string) (State, bool, error) {
	var doc map[string]any
	err := c.Get(DBPath(db, id), &doc)
	if Status(err) == http.StatusNotFound {
		return c.tombstone(db, id)
	}
	if err != nil {
		return State{}, false, err
	}
	rev, _ := doc["_rev"].(string)
	s := State{Rev: rev, BodyHash: BodyHash(doc), Attachments: map[string]string{}}
	atts, _ := doc["_attachments"].(map[string]any)
	for name := range atts {
		var data []byte
		if err := c.Get(DBPath(db, id, name)+"?rev="+url.QueryEscape(rev), &data); err != nil {
			return s, false, err
		}
		sum := sha256.Sum256(data)
		s.Attachments[name] = hex.EncodeToString(sum[:])
	}
	return s, true, nil
}

// tombstone finds a deleted document's revision.
func (c *Client) tombstone(db, id string) (State, bool, error) {
	var revs []struct {
		OK struct {
			Rev     string `json:"_rev"`
			Deleted bool   `json:"_deleted"`
		}
	}
	err := c.Do(context.Background(), http.MethodGet, DBPath(db, id)+"?open_revs=all", nil, &revs)
	if Status(err) == http.StatusNotFound || err == nil && len(revs) == 0 {
		return State{}, false, nil
	}
	if err != nil {
		return State{}, false, err
	}
	return State{Rev: revs[0].OK.Rev, Deleted: revs[0].OK.Deleted}, true, nil
}
