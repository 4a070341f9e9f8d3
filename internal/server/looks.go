package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Reading is what the agent of an instance can do for who wants its backups read.
type Reading struct {
	Agent  string // its name; "" if there is none
	Key    bool   // it has a key that reads
	Reads  bool   // and its node's setting accept_reads lets servers have it read
	Online bool
	Heard  time.Time // when it was, by this server's clock; zero for never
}

// ReadingOf says what the agent of an instance can do. The instance may be gone.
func (s *Server) ReadingOf(instance string) Reading {
	i := s.instances.have(instance)
	if i == nil {
		return Reading{}
	}
	a := s.agents.have(i.Agent)
	if a == nil {
		return Reading{}
	}
	hello, heard, online := s.lastHeard(a)
	return Reading{a.Name, hello.CanRead, hello.CanRead && hello.Reads, online, heard}
}

// Look has the agent of an instance look into backups, which the caller must be one to read, and returns its answer, which must be
// closed. An error, of reading the answer too, is an *Error.
func (s *Server) Look(ctx context.Context, instance string, q job.Look) (io.ReadCloser, error) {
	i := s.instances.have(instance)
	if i == nil {
		return nil, notFound(instance)
	}
	a := s.agents.have(i.Agent)
	if a == nil {
		return nil, refuse(Conflict, "The instance's agent was removed.")
	}
	own, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	q.Instance, q.Recipient = instance, own.Recipient().String()
	sealed, err := sealLook(a, q)
	if err != nil {
		return nil, err
	}
	in, err := askAgent(ctx, s, a, func() (io.ReadCloser, error) { return s.cfg.Bus.Stream(ctx, a.ID, sealed) })
	if err != nil {
		return nil, lookFault(ctx, a, err)
	}
	out := &looked{ctx: ctx, agent: a, sealed: in}
	if err := out.open(own); err != nil {
		in.Close()
		return nil, lookFault(ctx, a, err)
	}
	return out, nil
}

// sealLook packs a look and seals it to an agent. Of more backups than a message has room for, it names the newest.
func sealLook(a *job.Agent, q job.Look) ([]byte, error) {
	to, err := age.ParseX25519Recipient(a.Recipient)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Message: "The agent " + a.Name + " has said no key to send questions to.", Cause: err}
	}
	for {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, to)
		if err != nil {
			return nil, err
		}
		packed := gzip.NewWriter(w)
		if err := errors.Join(json.NewEncoder(packed).Encode(q), packed.Close(), w.Close()); err != nil {
			return nil, err
		}
		if out.Len() < bus.MaxPayload || len(q.Backups) < 2 {
			return out.Bytes(), nil
		}
		q.Backups = q.Backups[:len(q.Backups)/2]
	}
}

// looked is the answer of an agent.
type looked struct {
	ctx    context.Context //nolint:containedctx // of whoever reads
	agent  *job.Agent
	sealed io.ReadCloser
	in     *bufio.Reader
}

// open reads the head. What the agent refused is an *Error.
func (l *looked) open(own *age.X25519Identity) error {
	plain, err := age.Decrypt(l.sealed, own)
	if err != nil {
		return err
	}
	l.in = bufio.NewReaderSize(plain, 16<<10)
	line, err := l.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	var h job.LookHead
	if err := json.Unmarshal(line, &h); err != nil {
		return err
	}
	if h.Kind == 0 {
		return nil
	}
	tidy(maxSentence, &h.Message)
	k := Kind(h.Kind)
	if k.Status() == 0 || k == Forbidden || k == OverQuota { // which are for servers to say
		k = Conflict
	}
	return &Error{Kind: k, Message: h.Message}
}

func (l *looked) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = lookFault(l.ctx, l.agent, err)
	}
	return n, err
}

func (l *looked) Close() error { return l.sealed.Close() }

// lookFault is why an agent gave no answer, or no whole one, in a sentence.
func lookFault(ctx context.Context, a *job.Agent, err error) error {
	var own *Error
	var said *bus.Error
	unavailable := func(format string, args ...any) error {
		return &Error{Kind: Unavailable, Message: "The agent " + a.Name + ", which reads backups for this server, " + fmt.Sprintf(format, args...), Cause: err}
	}
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, bus.ErrNoAgent):
		return unavailable("isn't connected any more: try again when it is.")
	case errors.Is(err, bus.ErrSilent):
		return unavailable("doesn't answer: try again later.")
	case errors.As(err, &said) && said.Code == "busy":
		return unavailable("has too much to read just now: try again in a moment.")
	case errors.As(err, &said):
		text := said.Text
		tidy(maxSentence, &text)
		return unavailable("gave no answer: %s.", text)
	case ctx.Err() != nil:
		return unavailable("took too long: ask for less, or try again.")
	}
	return unavailable("didn't answer as it should.")
}
