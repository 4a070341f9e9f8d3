package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// retained says until when the storage protects what this run writes and takes
// over; nil if it isn't asked to.
func (r *Repo) retained(ctx context.Context, m *manifest.Manifest, parent *manifest.Record) (*time.Time, error) {
	if r.opts.RetainUntil.IsZero() {
		return nil, nil
	}
	retainer, err := r.retainer()
	if err != nil {
		return nil, err
	}
	until, err := r.retainSegments(ctx, retainer, m, parent)
	if err == nil && r.config.Encrypted() {
		err = r.keepKeys(ctx, m.Instance, retainer, r.opts.RetainUntil)
	}
	return until, err
}

// retainer is the storage, if it can protect objects.
func (r *Repo) retainer() (storage.Retainer, error) {
	if retainer, ok := r.store.(storage.Retainer); ok {
		return retainer, nil
	}
	return nil, fmt.Errorf("%s can't protect objects until a date; remove immutable_for", r.store.URL())
}

// retainSegments prolongs the storage's protection of the segments that m takes
// over from earlier runs, and returns until when all of m's are protected. As long
// as the parent's protection lasts for half of what is asked, m shares it: else
// each backup would cost a request for each segment of all before it.
func (r *Repo) retainSegments(ctx context.Context, retainer storage.Retainer, m *manifest.Manifest, parent *manifest.Record) (*time.Time, error) {
	until := r.opts.RetainUntil
	shared := namedBy(nil)
	now := r.now()
	if parent != nil && parent.RetainUntil != nil && parent.RetainUntil.After(now.Add(until.Sub(now)/2)) {
		until, shared = *parent.RetainUntil, namedBy(parent)
	}
	var keys []storage.Key
	for _, s := range m.Segments {
		if s.Backup != m.ID && !shared(idOf(s)) {
			keys = append(keys, r.segmentOf(m.Instance, s))
		}
	}
	if err := retainAll(ctx, retainer, r.opts.RetainUntil, keys); err != nil {
		return nil, err
	}
	until = until.UTC().Truncate(time.Second)
	return &until, nil
}

// RetainShipped prolongs the storage's protection of objects of chains, by their names. Those that are gone, as their
// moments have expired, are passed over.
func (r *Repo) RetainShipped(ctx context.Context, instance string, names []string, until time.Time) error {
	retainer, err := r.retainer()
	if err != nil {
		return err
	}
	keys := make([]storage.Key, len(names))
	for i, name := range names {
		keys[i] = r.shipKey(instance, name)
	}
	return retainAll(ctx, passing{retainer}, until, keys)
}

// passing is a Retainer for which an object that is gone is no error.
type passing struct{ storage.Retainer }

func (p passing) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	err := p.Retainer.Retain(ctx, key, until)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// retainAll prolongs the storage's protection of segments.
func retainAll(ctx context.Context, retainer storage.Retainer, until time.Time, keys []storage.Key) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for _, key := range keys {
		g.Go(func() error { return retainer.Retain(ctx, key, until) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("protect segments: %w", err)
	}
	return nil
}
