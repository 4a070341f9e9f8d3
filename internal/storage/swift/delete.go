package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// deletesAtOnce is how many single deletes are under way.
	deletesAtOnce = 8
	// deletesInOne is how many names one bulk request has: the server answers when
	// all are deleted.
	deletesInOne = 1000
)

// Delete removes an object with its segments.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	name, err := s.begin(ctx, key)
	if err == nil {
		err = s.delete(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", short(key), err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, name string) error {
	large, err := s.isLarge(ctx, name)
	if err != nil {
		return err
	}
	if !large {
		return s.deleteOne(ctx, target{s.place.container, name})
	}
	resp, err := s.do(ctx, request{method: http.MethodDelete, container: s.place.container, name: name, //nolint:bodyclose // deleted ends with it
		query: url.Values{"multipart-manifest": {"delete"}}, header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return err
	}
	_, err = s.deleted(ctx, resp)
	return err
}

// deleteOne removes one object; that it isn't there is no error, that its container
// isn't is one.
func (s *Store) deleteOne(ctx context.Context, o target) error {
	resp, err := s.do(ctx, request{method: http.MethodDelete, container: o.container, name: o.name})
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNotFound {
		discard(resp)
		return s.checkContainer(ctx, o.container)
	}
	return s.done(resp)
}

// DeleteAll sends many names in one request where the server takes them.
func (s *Store) DeleteAll(ctx context.Context, keys []storage.Key) error {
	var names []string
	for _, key := range keys {
		name, err := s.begin(ctx, key)
		if err != nil {
			return fmt.Errorf("delete %s: %w", short(key), err)
		}
		names = append(names, name)
	}
	large, err := s.withSegments(ctx, names)
	if err != nil {
		return fmt.Errorf("delete %d objects: %w", len(keys), err)
	}
	var plain []target
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, name := range names {
		if !large[name] {
			plain = append(plain, target{s.place.container, name})
			continue
		}
		g.Go(func() error { return s.delete(gctx, name) })
	}
	err = g.Wait()
	if err == nil {
		err = s.deleteNames(ctx, plain)
	}
	if err != nil {
		return fmt.Errorf("delete %d objects: %w", len(keys), err)
	}
	return nil
}

// withSegments returns which of names are names of objects that have segments.
func (s *Store) withSegments(ctx context.Context, names []string) (map[string]bool, error) {
	found := map[string]bool{}
	if large, err := s.hasLarge(ctx); err != nil || !large {
		return found, err
	}
	asked := make(map[string]bool, len(names))
	for _, name := range names {
		asked[name] = true
	}
	err := s.names(ctx, s.segments(), s.prefix, func(e entry) error {
		for i, c := range e.Name {
			if c == '/' && asked[e.Name[:i]] {
				found[e.Name[:i]] = true
			}
		}
		return nil
	})
	return found, err
}

// deleteNames removes objects that have no segments, in few requests if the server
// has the filter for it.
func (s *Store) deleteNames(ctx context.Context, names []target) error {
	if len(names) == 0 {
		return ctx.Err()
	}
	o, err := s.info(ctx)
	if err != nil {
		return err
	}
	if len(names) == 1 || o.BulkDelete == nil {
		return s.deleteEach(ctx, names)
	}
	most := deletesInOne
	if o.BulkDelete.Max > 0 {
		most = min(most, o.BulkDelete.Max)
	}
	for len(names) > 0 {
		n := min(most, len(names))
		if err := s.deleteBulk(ctx, names[:n]); err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}

func (s *Store) deleteEach(ctx context.Context, names []target) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, o := range names {
		g.Go(func() error { return s.deleteOne(gctx, o) })
	}
	return g.Wait()
}

func (s *Store) deleteBulk(ctx context.Context, names []target) error {
	var list strings.Builder
	for _, o := range names {
		list.WriteString(url.PathEscape(o.container) + "/" + url.PathEscape(o.name) + "\n")
	}
	text := strings.NewReader(list.String())
	resp, err := s.do(ctx, request{method: http.MethodPost, query: url.Values{"bulk-delete": {"true"}}, body: &section{text, 0, text.Size()},
		header: http.Header{"Content-Type": {"text/plain"}, "Accept": {"application/json"}}})
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		discard(resp) // to a user who has rights in the container alone
		return s.deleteEach(ctx, names)
	}
	missing, err := s.deleted(ctx, resp)
	if err == nil && missing == len(names) {
		err = s.checkContainer(ctx, names[0].container)
	}
	return err
}

// deleted reads the answer to a request that deletes several objects, and returns
// how many weren't there. Its status line says 200 whatever happened.
// Source: Swift 2.30, swift/common/middleware/bulk.py, handle_delete_iter.
func (s *Store) deleted(ctx context.Context, resp *http.Response) (missing int, err error) {
	if resp.StatusCode != http.StatusOK {
		return 0, s.done(resp)
	}
	var result struct {
		Status  string      `json:"Response Status"`
		Body    string      `json:"Response Body"`
		Missing int         `json:"Number Not Found"`
		Errors  [][2]string // name and status line
	}
	dec := json.NewDecoder(resp.Body)
	err = dec.Decode(&result)
	discard(resp)
	if err != nil {
		return 0, unavailable(ctx, fmt.Errorf("read the answer: %w", err))
	}
	status, text := statusOf(result.Status), result.Status+" "+result.Body
	if len(result.Errors) > 0 {
		status, text = statusOf(result.Errors[0][1]), result.Errors[0][1]+" for "+result.Errors[0][0]
	}
	switch {
	case len(result.Errors) == 0 && status == http.StatusOK:
		return result.Missing, nil
	case status == 0:
		return 0, errors.New("the server did not delete: " + text)
	}
	return 0, &statusError{status: status, text: text, kind: kindOf(status)}
}

// statusOf returns the number that a status line begins with, or 0.
func statusOf(line string) int {
	n := 0
	fmt.Sscanf(line, "%d", &n) //nolint:errcheck // 0 says it
	return n
}
