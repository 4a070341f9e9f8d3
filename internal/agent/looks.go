package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/states"
)

// What a server may have read is bounded here, as in accept.go: only if the node's settings say so, only backups of this agent's
// own instances, under their names in the repository, and only out of repositories that the settings name. Who may ask is the
// server's to say. What leaves are answers, sealed to the server that asked: never a key, nor a repository.

const (
	// openStates is how many states may be open at a time to be looked into. Each holds at most some 50 MiB.
	openStates = 4
	maxLook    = 64 << 20 // bytes of a look when it isn't compressed
)

// reads has looks of servers answered, until ctx ends.
func (a *agent) reads(ctx context.Context) {
	open := states.New(states.Options{Most: openStates})
	defer open.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for pause(ctx, states.LookEvery) {
			open.Look(time.Now())
		}
	}()
	reader := contents.New(open)
	a.keepOn(ctx, "answer looks", func() error {
		return a.link.Streams(ctx, func(ctx context.Context, sealed []byte, w io.Writer) error { return a.look(ctx, reader, sealed, w) })
	})
}

// look answers one look.
func (a *agent) look(ctx context.Context, reader *contents.Reader, sealed []byte, w io.Writer) error {
	q, to, err := a.openLook(sealed)
	if err != nil {
		return err
	}
	out, err := age.Encrypt(w, to)
	if err != nil {
		return err
	}
	began := time.Now()
	begun, err := a.answerLook(ctx, reader, q, out)
	a.log.DebugContext(ctx, "a server had backups read", "look", q.Name, "instance", q.Instance, "took", time.Since(began), "err", err)
	if err != nil && !begun {
		e := a.lookFault(ctx, err)
		err = writeHead(out, job.LookHead{Kind: int(e.Kind), Message: e.Message})
	}
	if err != nil {
		return errors.New("reading failed halfway: the agent's log says why")
	}
	return out.Close()
}

// openLook opens what was sealed.
func (a *agent) openLook(sealed []byte) (*job.Look, age.Recipient, error) {
	bad := func(err error) (*job.Look, age.Recipient, error) {
		return nil, nil, fmt.Errorf("what the server asks for can't be read: %w", err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), a.identity)
	if err != nil {
		return bad(errors.New("it is encrypted to another agent's key"))
	}
	packed, err := gzip.NewReader(r)
	if err != nil {
		return bad(err)
	}
	var q job.Look
	if err := json.NewDecoder(io.LimitReader(packed, maxLook)).Decode(&q); err != nil {
		return bad(err)
	}
	to, err := age.ParseX25519Recipient(q.Recipient)
	if err != nil {
		return bad(err)
	}
	return &q, to, nil
}

// answerLook writes an answer. begun says that it was begun when an error came.
func (a *agent) answerLook(ctx context.Context, reader *contents.Reader, q *job.Look, w io.Writer) (begun bool, err error) {
	if err := a.acceptsLook(q); err != nil {
		return false, err
	}
	of := &states.Shelf{Backups: q.Backups, Open: a.openToLook}
	if q.Name != job.LookAttachment {
		answer, err := reader.Answer(ctx, of, q.Name, q.Query)
		if err != nil {
			return false, err
		}
		return true, writeAnswer(w, answer)
	}
	var att contents.AttachmentQuery
	if err := contents.Decode(q.Query, &att); err != nil {
		return false, err
	}
	err = reader.Attachment(ctx, of, att, func(x contents.Attachment, in io.Reader) error {
		begun = true
		head, err := contents.Encode(x)
		if err != nil {
			return err
		}
		if err := writeAnswer(w, head); err != nil {
			return err
		}
		_, err = io.Copy(w, in)
		return err
	})
	return begun, err
}

// acceptsLook refuses what the node's settings don't allow, and what isn't this agent's.
func (a *agent) acceptsLook(q *job.Look) error {
	if !a.o.AcceptReads {
		return refusal.New(refusal.Conflict, "The node %s lets no server have its backups read: its setting accept_reads would allow it.", a.o.Host)
	}
	if !a.o.CanRead {
		return refusal.New(refusal.Conflict, "The agent of %s has no key that reads: its setting identity_file names one.", a.o.Host)
	}
	if len(q.Backups) == 0 {
		return refusal.New(refusal.Invalid, "The look names no backups.")
	}
	for _, b := range q.Backups {
		if b == nil || b.Instance != q.Instance || !a.isMine(b) {
			return refusal.New(refusal.Forbidden, "The agent of %s reads backups of its own instances alone.", a.o.Host)
		}
	}
	return nil
}

// isMine reports whether a backup is one of this agent's instances, under the name in the repository that it has there: of its own
// node the servers' last word counts, and that of one which it made ends as its id does.
func (a *agent) isMine(b *job.Backup) bool {
	if _, made := a.made.get(b.Instance); made {
		return strings.HasSuffix(b.RepoName, "-"+b.Instance[max(0, len(b.Instance)-12):])
	}
	reply := a.lastReply()
	return b.Instance != "" && b.Instance == reply.Node && b.RepoName == reply.NodeName
}

// openToLook opens the repository of a backup, if the node's settings name it.
func (a *agent) openToLook(ctx context.Context, b *job.Backup) (*repo.Repo, func(), error) {
	in := b.Repository
	if in.Storage != "" {
		return nil, nil, refusal.New(refusal.Conflict, "The backup is in a caller's Swift account, out of which agents read nothing for servers.")
	}
	err := a.acceptsPlaceOf(ctx, b.RepoName, &in)
	if err == nil {
		var r *repo.Repo
		var done func()
		if r, done, err = a.openIn(ctx, Open{Repository: in, Look: true}); err == nil {
			return r, done, nil
		}
	}
	return nil, nil, &refusal.Error{Kind: refusal.Unavailable, Cause: err, Message: "The agent of " + a.o.Host + " can't open the repository: " + faultOf(err) + "."}
}

// lookFault is what went wrong, as a refusal. The cause is in the log.
func (a *agent) lookFault(ctx context.Context, err error) *refusal.Error {
	var own *refusal.Error
	switch {
	case errors.Is(err, repo.ErrNoKey), errors.Is(err, repo.ErrWrongKey):
		return &refusal.Error{Kind: refusal.Conflict, Message: "The key of the agent of " + a.o.Host + " doesn't read this backup either: its setting identity_file names the key."}
	case !errors.As(err, &own):
		a.log.WarnContext(ctx, "backups can't be read for a server", "err", faultOf(err))
		return &refusal.Error{Kind: refusal.Unavailable, Message: "The agent of " + a.o.Host + " can't read this backup now: its log says why."}
	case own.Cause != nil && own.Kind == refusal.Unavailable:
		a.log.WarnContext(ctx, "backups can't be read for a server", "err", faultOf(own.Cause))
	}
	return own
}

// writeAnswer begins an answer.
func writeAnswer(w io.Writer, answer []byte) error {
	if err := writeHead(w, job.LookHead{}); err != nil {
		return err
	}
	_, err := w.Write(answer)
	return err
}

func writeHead(w io.Writer, h job.LookHead) error { return json.NewEncoder(w).Encode(h) }
