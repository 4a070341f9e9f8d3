package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// An answer that is longer than a message, or that takes longer than one may be waited for, is a stream: the server asks for one
// piece after the other, by a number, and the agent has the next one ready and no more. So neither is ever ahead of the other, and
// both notice when the other is gone.
const (
	// pieceSize is how much of a stream is in a message, in bytes.
	pieceSize = MaxPayload / 2
	// streams is how many an agent has under way at a time; more are refused.
	streams = 16
	// pieceWait is how long an agent waits for what is to be in a piece until it says that it is still at it.
	pieceWait = 2 * time.Second
	// pieceSilence is how long an agent may say nothing to a request for a piece, which is then repeated once.
	pieceSilence = 4 * time.Second
	// pieceLate is how long it may say that it is still at it.
	pieceLate = 90 * time.Second
	// streamIdle is how long an agent keeps a stream whose next piece nobody asks for: whoever reads may be slow.
	streamIdle = 2 * time.Minute
)

// The headers of requests for pieces, and of pieces.
const (
	streamHeader = "Slipcover-Stream" // of a request: which stream
	pieceHeader  = "Slipcover-Piece"  // of a request: which piece, from 0 on; or pieceNone
	stateHeader  = "Slipcover-State"  // of a piece: one of the states below

	pieceNone  = "none" // no more are wanted
	stateMore  = "more" // there are others behind it
	stateEnd   = "end"  // it is the last one
	stateLater = "later"
)

// ErrSilent says that an agent doesn't answer, though it is connected.
var ErrSilent = errors.New("the agent does not answer")

// Stream asks an agent for what its function given to Streams writes. If the agent isn't connected the error is ErrNoAgent, at
// once. Reading ends with io.EOF only after all of it; else with an *Error that the function returned, with ErrNoAgent or
// ErrSilent if the agent was lost, or as ctx ends. Close must be called.
func (b *Bus) Stream(ctx context.Context, agent string, data []byte) (io.ReadCloser, error) {
	if err := checkName("agent", agent); err != nil {
		return nil, err
	}
	s := &inflow{ctx: ctx, nc: b.nc, agent: agent, id: nuid.Next(), pieceSilence: pieceSilence / time.Duration(max(b.opts.hurry, 1))}
	var err error
	if s.sub, err = b.nc.SubscribeSync("slipcover.from." + agent + ".answer." + s.id); err != nil {
		return nil, fmt.Errorf("ask agent %s: %w", agent, err)
	}
	if err := s.next(data); err != nil && !errors.Is(err, io.EOF) { //nolint:contextcheck // s has it
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// inflow is a stream as the server reads it.
type inflow struct {
	ctx          context.Context //nolint:containedctx // of whoever reads
	nc           *nats.Conn
	agent, id    string
	sub          *nats.Subscription
	pieceSilence time.Duration

	n    int // pieces so far
	rest []byte
	err  error
}

func (s *inflow) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if err := s.next(nil); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next gets the next piece. What it returns as an error is kept; io.EOF is that of the last one.
func (s *inflow) next(data []byte) error {
	late := time.Now().Add(pieceLate)
	for silent := false; ; {
		m, err := s.piece(data)
		switch {
		case err == nil && m.Header.Get(stateHeader) == stateLater && time.Now().Before(late):
			silent = false
			continue
		case err == nil && m.Header.Get(stateHeader) == stateLater, errors.Is(err, ErrSilent) && silent:
			err = ErrSilent
		case errors.Is(err, ErrSilent):
			silent = true
			continue
		}
		if err == nil {
			s.n++
			s.rest, err = answered(m)
			if err == nil && m.Header.Get(stateHeader) == stateEnd {
				s.err = io.EOF
				return nil
			}
		}
		if err != nil {
			s.err = fmt.Errorf("ask agent %s: %w", s.agent, err)
		}
		return s.err
	}
}

// piece asks once for the next piece.
func (s *inflow) piece(data []byte) (*nats.Msg, error) {
	if err := s.send(strconv.Itoa(s.n), data); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.pieceSilence)
	defer cancel()
	for {
		m, err := s.sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, ErrNoAgent
		case err != nil && s.ctx.Err() != nil:
			return nil, s.ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return nil, ErrSilent
		case err != nil:
			return nil, err
		}
		if m.Header.Get(pieceHeader) == strconv.Itoa(s.n) { // and not one that came twice
			return m, nil
		}
	}
}

func (s *inflow) send(piece string, data []byte) error {
	m := nats.NewMsg("slipcover.to." + s.agent + ".stream")
	m.Reply, m.Data = s.sub.Subject, data
	m.Header.Set(streamHeader, s.id)
	m.Header.Set(pieceHeader, piece)
	return s.nc.PublishMsg(m)
}

// Close ends it.
func (s *inflow) Close() error {
	_ = s.send(pieceNone, nil) // it ends by itself, too
	s.err = errors.New("it was closed")
	_ = s.sub.Unsubscribe() // the connection may be closed
	return nil
}

// Streams answers what servers ask by Stream until ctx ends. What fn writes is sent when it is asked for: writing waits, and fails
// once nobody reads any more. At most 16 run at a time; more are refused.
func (l *Link) Streams(ctx context.Context, fn func(ctx context.Context, data []byte, w io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := outflows{ctx: ctx, fn: fn, all: map[string]*outflow{}}
	defer f.running.Wait()
	return serve(ctx, l.nc, "slipcover.to."+l.agent+".stream", "", func(m *nats.Msg) func(context.Context) { //nolint:contextcheck // f has it
		id, piece := m.Header.Get(streamHeader), m.Header.Get(pieceHeader)
		if !strings.HasPrefix(m.Reply, l.from("answer", "")) || !validName(id) {
			return nil
		}
		if piece == pieceNone {
			f.end(id)
			return nil
		}
		n, err := strconv.Atoi(piece)
		if err != nil {
			return nil
		}
		s, err := f.find(id, n, m.Data)
		return func(ctx context.Context) {
			out := answer(m.Reply, nil, err)
			if err == nil {
				out = s.piece(ctx, m.Reply, n)
			}
			out.Header.Set(pieceHeader, piece)
			if err := l.nc.PublishMsg(out); err != nil {
				l.log.DebugContext(ctx, "a piece of a stream", "err", err)
			}
		}
	})
}

// outflows are the streams of an agent.
type outflows struct {
	ctx     context.Context //nolint:containedctx // of Streams
	fn      func(context.Context, []byte, io.Writer) error
	running sync.WaitGroup

	mu  sync.Mutex
	all map[string]*outflow // guarded by mu
}

// outflow is one of them.
type outflow struct {
	ready  chan piece
	cancel context.CancelFunc
	idle   *time.Timer

	mu   sync.Mutex
	n    int // of the last piece that was sent; guarded by mu, like what follows
	last piece
}

// piece is a part of a stream.
type piece struct {
	data []byte
	end  bool  // none is behind it
	err  error // in place of data, at the end
}

// find returns the stream of an id; the request for piece 0 begins it.
func (f *outflows) find(id string, n int, data []byte) (*outflow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.all[id]
	switch {
	case s != nil:
		s.idle.Reset(streamIdle)
		return s, nil
	case n != 0:
		return nil, errors.New("the agent was started anew meanwhile, or nobody asked for the next piece in time")
	case len(f.all) >= streams:
		return nil, &Error{Code: "busy", Text: fmt.Sprintf("the agent has %d streams under way: try again later", streams)}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	s = &outflow{ready: make(chan piece), cancel: cancel, n: -1}
	s.idle = time.AfterFunc(streamIdle, func() { f.end(id) })
	f.all[id] = s
	f.running.Go(func() {
		w := &pieces{ctx: ctx, to: s.ready}
		last := piece{end: true, err: f.fn(ctx, data, w)}
		if last.err == nil {
			last.data = w.buf
		}
		_ = w.send(last)
	})
	return s, nil
}

// end forgets a stream, and ends what writes it.
func (f *outflows) end(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.all[id]; s != nil {
		s.idle.Stop()
		s.cancel()
		delete(f.all, id)
	}
}

// piece is the message with a piece. The last one is repeated if it is asked for again.
func (s *outflow) piece(ctx context.Context, to string, n int) *nats.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == s.n+1 && !s.last.end {
		wait := time.NewTimer(pieceWait)
		defer wait.Stop()
		select {
		case s.last = <-s.ready:
			s.n = n
		case <-wait.C:
			return ofState(answer(to, nil, nil), stateLater)
		case <-ctx.Done():
			return ofState(answer(to, nil, nil), stateLater)
		}
	}
	switch {
	case n != s.n:
		return answer(to, nil, fmt.Errorf("piece %d was asked for, after %d", n, s.n))
	case s.last.end:
		return ofState(answer(to, s.last.data, s.last.err), stateEnd)
	}
	return ofState(answer(to, s.last.data, nil), stateMore)
}

func ofState(m *nats.Msg, state string) *nats.Msg {
	m.Header.Set(stateHeader, state)
	return m
}

// pieces cuts what is written into pieces, and waits until each is asked for.
type pieces struct {
	ctx context.Context //nolint:containedctx // of the stream
	to  chan<- piece
	buf []byte
}

func (w *pieces) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(w.buf) == pieceSize {
			if err := w.send(piece{data: w.buf}); err != nil {
				return n, err
			}
			w.buf = nil // the one before is being sent
		}
		take := min(len(p), pieceSize-len(w.buf))
		w.buf = append(w.buf, p[:take]...)
		p, n = p[take:], n+take
	}
	return n, nil
}

func (w *pieces) send(p piece) error {
	select {
	case w.to <- p:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}
