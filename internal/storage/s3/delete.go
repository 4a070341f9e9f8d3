package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
)

// deletesAtOnce is how many objects of a bucket with versions are deleted at a time.
const deletesAtOnce = 8

// Delete removes an object, in a bucket with versions all of them.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	name, err := s.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	op := "delete " + string(key)
	if s.versioned {
		return s.deleteVersions(ctx, op, name)
	}
	return s.remove(ctx, op, name, "")
}

func (s *Store) remove(ctx context.Context, op, name, version string) error {
	ctx, reply := watch(ctx)
	err := s.client.RemoveObject(ctx, s.settings.bucket, name, minio.RemoveObjectOptions{VersionID: version})
	if err == nil {
		return nil
	}
	err = s.wrap(ctx, op, reply, err)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// deleteVersions removes the newest version last: were it the first, the one before
// it would be there for a moment, and stay if the next request fails.
func (s *Store) deleteVersions(ctx context.Context, op, name string) error {
	versions, err := s.versions(ctx, op, name)
	if err != nil {
		return err
	}
	for _, id := range slices.Backward(versions) {
		err := s.remove(ctx, op, name, id)
		if err != nil && ctx.Err() == nil && s.protects(ctx, name, id) {
			return fmt.Errorf("%s: %w", op, storage.ErrRetained)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// versions returns the ids of all versions of an object, the newest first. Marks of
// deletion count as versions.
func (s *Store) versions(ctx context.Context, op, name string) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // or the client goes on listing
	ctx, reply := watch(ctx)
	no := false
	var ids []string
	opts := minio.ListObjectsOptions{Prefix: name, WithVersions: true, Recursive: true, FetchOwner: &no}
	for v := range s.client.ListObjectsIter(ctx, s.settings.bucket, opts) {
		if v.Err != nil {
			return nil, s.wrap(ctx, op, reply, v.Err)
		}
		if v.Key != name {
			break // names that begin with this one come after it
		}
		ids = append(ids, v.VersionID)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return ids, nil
}

// protects says whether Object Lock is why a version could not be removed. The
// answers to that differ, so it is asked.
func (s *Store) protects(ctx context.Context, name, version string) bool {
	ctx, _ = watch(ctx)
	info, err := s.client.StatObject(ctx, s.settings.bucket, name, minio.StatObjectOptions{VersionID: version})
	return err == nil && isRetained(info)
}

// DeleteAll removes 1000 objects with one request, where the bucket has no versions.
func (s *Store) DeleteAll(ctx context.Context, keys []storage.Key) error {
	for _, key := range keys {
		if _, err := s.begin(ctx, "delete", key); err != nil {
			return err
		}
	}
	if s.versioned {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(deletesAtOnce)
		for _, key := range keys {
			g.Go(func() error { return s.Delete(ctx, key) })
		}
		return g.Wait()
	}
	ctx, reply := watch(ctx)
	results, err := s.client.RemoveObjectsWithIter(ctx, s.settings.bucket, func(yield func(minio.ObjectInfo) bool) {
		for _, key := range keys {
			if !yield(minio.ObjectInfo{Key: s.settings.prefix + string(key)}) {
				return
			}
		}
	}, minio.RemoveObjectsOptions{})
	if err != nil {
		return s.wrap(ctx, "delete", reply, err)
	}
	for r := range results {
		if r.Err == nil {
			continue
		}
		if err := s.wrap(ctx, "delete "+r.ObjectName, reply, r.Err); !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// isRetained says whether the server protects a version now.
func isRetained(info minio.ObjectInfo) bool {
	return info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == "ON" || retainedUntil(info).After(time.Now())
}

func retainedUntil(info minio.ObjectInfo) time.Time {
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil {
		return time.Time{}
	}
	return until
}

// wholeSeconds rounds up to what a request can say.
func wholeSeconds(t time.Time) time.Time {
	return t.Add(time.Second - 1).Truncate(time.Second).UTC()
}

// needLock returns an error if the bucket has no Object Lock. Some servers would
// store the object without protection, and take a request to protect one for its
// new content.
func (s *Store) needLock(ctx context.Context, op string) error {
	if s.locked.Load() {
		return nil
	}
	ctx, reply := watch(ctx)
	enabled, _, _, _, err := s.client.GetObjectLockConfig(ctx, s.settings.bucket)
	if err == nil && enabled == "Enabled" && s.versioned {
		s.locked.Store(true)
		return nil
	}
	if err != nil && reply.status() != http.StatusOK { // an answer that isn't one is a no
		err := s.wrap(ctx, op, reply, err)
		if ctx.Err() != nil || errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrDenied) {
			return err
		}
	}
	return fmt.Errorf("%s: the bucket %s can't protect objects until a date: make one with Object Lock and use that (docs/s3.md)", op, s.settings.bucket)
}

// Retain protects an object until a later date. An earlier one, or one that is over,
// changes nothing.
func (s *Store) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	op := "retain " + string(key)
	name, err := s.begin(ctx, "retain", key)
	if err != nil {
		return err
	}
	if err := s.needLock(ctx, op); err != nil {
		return err
	}
	info, err := s.head(ctx, op, name)
	if err != nil {
		return err
	}
	until = wholeSeconds(until)
	if !until.After(retainedUntil(info)) || !until.After(time.Now()) {
		return nil
	}
	mode := minio.RetentionMode(info.Metadata.Get("X-Amz-Object-Lock-Mode"))
	if !mode.IsValid() {
		mode = s.settings.lockMode
	}
	ctx, reply := watch(ctx)
	err = s.client.PutObjectRetention(ctx, s.settings.bucket, name, minio.PutObjectRetentionOptions{
		Mode: &mode, RetainUntilDate: &until, VersionID: info.VersionID,
	})
	if err != nil {
		return s.wrap(ctx, op, reply, err)
	}
	return nil
}
