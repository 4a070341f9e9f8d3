package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// markTTL is how long NATS keeps the mark of a deleted entry.
	markTTL = 24 * time.Hour
	// lookInterval is after how long without a message a watch looks whether it has
	// missed one.
	lookInterval = 15 * time.Second
	// firstLook is that for the first message. In a cluster the request for it can be
	// lost: the answer that made the consumer comes before the word where it is.
	firstLook = time.Second
	// startWait is how long what is needed at a start is waited for, and leaderWait a
	// stream's leader for a write, of a cluster that has lost a member.
	startWait      = time.Minute
	leaderWait     = 10 * time.Second
	leaderlessWait = 200 * time.Millisecond // between two tries
)

// Table maps keys to values. Each change of an entry gives it a higher revision
// than any in the table before. Keys have letters, digits, and -_./= inside.
//
// What returned without an error is on disk: on that of the embedded server, or on
// most of the replicas. An error other than the ones named leaves open whether the
// change was made: look before trying again.
type Table struct {
	b      *Bus
	kv     jetstream.KeyValue
	stream string
	prefix string // of subjects
}

// Table opens a table, and makes it if missing.
func (b *Bus) Table(ctx context.Context, name string) (*Table, error) {
	if err := checkName("table", name); err != nil {
		return nil, err
	}
	bucket := "slipcover_" + name
	t := &Table{b: b, stream: "KV_" + bucket, prefix: "$KV." + bucket + "."}
	// The layout that NATS gives a bucket, but for AllowDirect: replicas would answer
	// reads, and late.
	err := b.makeStream(ctx, jetstream.StreamConfig{
		Name:              t.stream,
		Description:       "table of Slipcover",
		Subjects:          []string{t.prefix + ">"},
		MaxMsgsPerSubject: 1,
		MaxMsgSize:        -1,
		Discard:           jetstream.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowMsgTTL:       true,
	})
	if err == nil {
		err = AtStart(ctx, func() (err error) {
			t.kv, err = b.js.KeyValue(ctx, bucket)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open table %s: %w", name, err)
	}
	return t, nil
}

// makeStream makes a stream unless there is one of that name. It waits for a cluster
// that has lost a member just now and chooses who leads.
func (b *Bus) makeStream(ctx context.Context, c jetstream.StreamConfig) error {
	return AtStart(ctx, func() error { return b.makeStreamNow(ctx, c) })
}

func (b *Bus) makeStreamNow(ctx context.Context, c jetstream.StreamConfig) error {
	_, err := b.js.Stream(ctx, c.Name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	c.Storage = jetstream.FileStorage
	c.Replicas = b.opts.Replicas
	_, err = b.js.CreateStream(ctx, c)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another server made it just now
		return nil
	}
	if err == nil && b.embed != nil {
		return b.embed.syncStream(c.Name)
	}
	return err
}

// AtStart does what a start needs, again while the cluster chooses who leads, for a
// minute. What it does must be harmless to repeat.
func AtStart(ctx context.Context, do func() error) error {
	return again(ctx, startWait, unanswered, do)
}

// again does something again while its error is one of those, for a time.
func again(ctx context.Context, within time.Duration, those func(error) bool, do func() error) error {
	for end := time.Now().Add(within); ; {
		err := do()
		if err == nil || ctx.Err() != nil || !those(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(leaderlessWait):
		}
	}
}

// unanswered says that nobody took a request, or that nobody can answer it now.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || leaderless(err)
}

// untaken says that nobody took a write, so it was certainly not made.
func untaken(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// leaderless says that a cluster which lost a member has nobody who leads just now.
func leaderless(err error) bool {
	var e *jetstream.APIError
	return untaken(err) || errors.As(err, &e) && e.Code == 503
}

// write makes a change, again while the table's stream has no leader to take it.
func write(ctx context.Context, do func() (uint64, error)) (rev uint64, err error) {
	err = again(ctx, leaderWait, untaken, func() (err error) {
		rev, err = do()
		return err
	})
	return rev, err
}

// Get returns an entry and its revision, or ErrNotFound.
func (t *Table) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	var e jetstream.KeyValueEntry
	err := again(ctx, leaderWait, leaderless, func() (err error) {
		e, err = t.kv.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, 0, t.fail("read", key, err)
	}
	return e.Value(), e.Revision(), nil
}

// Create makes an entry. If there is one the error is ErrExists.
func (t *Table) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	rev, err := write(ctx, func() (uint64, error) { return t.kv.Create(ctx, key, value) })
	if wrongRevision(err) {
		err = ErrExists
	}
	return rev, t.fail("create", key, err)
}

// Put makes or replaces an entry, whatever is there.
func (t *Table) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	rev, err := write(ctx, func() (uint64, error) { return t.kv.Put(ctx, key, value) })
	return rev, t.fail("write", key, err)
}

// Update replaces the entry of revision rev. If it has another one by now, or is
// gone, the error is ErrConflict.
func (t *Table) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	next, err := write(ctx, func() (uint64, error) { return t.kv.Update(ctx, key, value, rev) })
	if wrongRevision(err) {
		err = ErrConflict
	}
	return next, t.fail("update", key, err)
}

// Delete removes the entry of revision rev; if it has another one the error is
// ErrConflict. With rev 0 it removes whatever there is, or nothing.
func (t *Table) Delete(ctx context.Context, key string, rev uint64) error {
	o := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(markTTL)}
	if rev != 0 {
		o = append(o, jetstream.LastRevision(rev))
	}
	_, err := write(ctx, func() (uint64, error) { return 0, t.kv.Purge(ctx, key, o...) })
	if wrongRevision(err) {
		err = ErrConflict
	}
	return t.fail("delete", key, err)
}

func (t *Table) fail(what, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		err = ErrNotFound
	case errors.Is(err, jetstream.ErrInvalidKey):
		return fmt.Errorf("key %.140q: use letters, digits and -_./=, with no dot at either end", key)
	case unanswered(err), down(err), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, jetstream.ErrStreamNotFound):
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%s %s of %s: %w", what, key, t.kv.Bucket(), err)
}

// wrongRevision says that NATS knows another last sequence of the subject. It has
// two codes for that, the second from streams with replicas.
func wrongRevision(err error) bool {
	var e *jetstream.APIError
	return errors.As(err, &e) && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == 10164)
}

// Change is an entry as it now is, or the mark that all were told.
type Change struct {
	// Ready, once and with a Rev of which nothing earlier is left to tell, says that all
	// entries of the beginning were told.
	Ready   bool
	Key     string
	Value   []byte
	Rev     uint64
	Deleted bool // Value is nil
}

// Watch calls fn, one call at a time, with each entry there is, then with Ready,
// then with each entry that changes or is deleted, until ctx ends; it returns the
// error of ctx. Of an entry that changes fast the last revision is told, not each.
// The same revision is not told twice, and revisions of a key only rise.
//
// The deletion of an entry that was made and deleted between two looks is told too, once
// all entries of the beginning were: who asked for the entry meanwhile may have it.
//
// Nothing is missed: when the connection was lost, or anything seems out of order,
// the table is read again from the beginning, and what has changed or is gone
// since is told as a change like any other. For that Watch remembers all keys with
// their revisions. A deletion that it found in this way has the revision at which
// it was found.
func (t *Table) Watch(ctx context.Context, fn func(Change)) error {
	w := watch{t: t, fn: fn, known: map[string]uint64{}, look: firstLook}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		w.settled = false
		err := w.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t.b.log.DebugContext(ctx, "watch again from the beginning", "table", t.kv.Bucket(), "err", err)
		w.look = min(2*w.look, lookInterval) // it may just be slow
		if w.settled {
			wait, w.look = 100*time.Millisecond, firstLook
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

type watch struct {
	t       *Table
	fn      func(Change)
	look    time.Duration     // how long the first message of the next run is waited for
	known   map[string]uint64 // revisions of the entries that fn was told
	seen    uint64            // highest revision that came
	created time.Time         // of the stream whose revisions these are
	settled bool              // the last run has told all entries
	ready   bool              // fn was told so
}

// run tells all entries and then changes, until it can't be sure any more that it
// sees all of them.
func (w *watch) run(ctx context.Context) error {
	b := w.t.b
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer b.onReconnect(func() { cancel(errors.New("the connection was lost")) })()
	stream, err := b.js.Stream(ctx, w.t.stream)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	if !info.Created.Equal(w.created) { // another table by the same name: its revisions begin anew
		w.created, w.seen = info.Created, 0
		for k := range w.known {
			w.known[k] = 0
		}
	}
	cons, err := b.js.CreateConsumer(ctx, w.t.stream, jetstream.ConsumerConfig{
		Description: "watch", DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckNonePolicy,
		InactiveThreshold: time.Minute, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return err
	}
	defer func() { // it would go by itself after a minute
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = b.js.DeleteConsumer(ctx, w.t.stream, cons.CachedInfo().Name)
	}()
	msgs, err := cons.Messages(jetstream.PullMaxMessages(500), jetstream.PullExpiry(30*time.Second), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	defer msgs.Stop()

	last := info.State.LastSeq // what comes after it is a change, not of the beginning
	fresh := map[string]bool{}
	if cons.CachedInfo().NumPending == 0 {
		w.settle(fresh, last)
		fresh = nil
	}
	look := w.look
	for told := uint64(0); ; {
		msg, err := next(ctx, msgs, look)
		look = lookInterval
		if errors.Is(err, context.DeadlineExceeded) {
			// Nothing came for a while. Had something been sent, and lost on its way?
			i, err := cons.Info(ctx)
			if err != nil {
				return err
			}
			if i.NumPending != 0 || i.Delivered.Consumer != told {
				return fmt.Errorf("message %d of %d did not come", told+1, i.Delivered.Consumer+i.NumPending)
			}
			if fresh != nil { // all that is there has come: what NATS had counted besides is damaged
				w.settle(fresh, max(last, i.Delivered.Stream))
				fresh = nil
			}
			continue
		}
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if told++; meta.Sequence.Consumer != told {
			return fmt.Errorf("message %d came for message %d", meta.Sequence.Consumer, told)
		}
		w.tell(msg, meta.Sequence.Stream, fresh)
		if fresh != nil && (meta.Sequence.Stream >= last || meta.NumPending == 0) {
			w.settle(fresh, max(last, meta.Sequence.Stream))
			fresh = nil
		}
	}
}

// next waits for a message for some time.
func next(ctx context.Context, msgs jetstream.MessagesContext, within time.Duration) (jetstream.Msg, error) {
	short, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	msg, err := msgs.Next(jetstream.NextContext(short))
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return msg, err
}

// tell hands a message on that isn't known. fresh, if not nil, gets its key.
func (w *watch) tell(msg jetstream.Msg, rev uint64, fresh map[string]bool) {
	key := strings.TrimPrefix(msg.Subject(), w.t.prefix)
	before, known := w.known[key]
	news := rev > w.seen
	w.seen = max(w.seen, rev)
	h := msg.Headers()
	if h.Get("KV-Operation") != "" || h.Get("Nats-Marker-Reason") != "" {
		if known || news && w.ready {
			delete(w.known, key)
			w.fn(Change{Key: key, Rev: rev, Deleted: true})
		}
		return
	}
	if fresh != nil {
		fresh[key] = true
	}
	w.known[key] = rev
	if !known || before != rev {
		w.fn(Change{Key: key, Value: msg.Data(), Rev: rev})
	}
}

// settle ends the beginning: what fn knows and wasn't there is gone.
func (w *watch) settle(fresh map[string]bool, rev uint64) {
	for key := range w.known {
		if !fresh[key] {
			delete(w.known, key)
			w.fn(Change{Key: key, Rev: rev, Deleted: true})
		}
	}
	w.settled = true
	if !w.ready {
		w.ready = true
		w.fn(Change{Ready: true, Rev: rev})
	}
}
