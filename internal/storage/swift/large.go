package swift

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// segmentsAtOnce is how many segments of one object are sent side by side.
	segmentsAtOnce = 4

	// largeBelieved is how long "there are no segments" is believed.
	largeBelieved = time.Minute

	// defaultSegments is how many segments an object may have where the server
	// doesn't say.
	defaultSegments = 1000
)

// offers is what a server says about itself.
// Source: Swift's documentation, "Discoverability", GET /info.
type offers struct {
	Swift struct {
		MaxFileSize int64 `json:"max_file_size"`
	} `json:"swift"`
	SLO struct {
		MaxSegments int64 `json:"max_manifest_segments"`
	} `json:"slo"`
	BulkDelete *struct {
		Max int `json:"max_deletes_per_request"`
	} `json:"bulk_delete"`
}

// info asks the server once what it offers; of one that doesn't say, nothing.
func (s *Store) info(ctx context.Context) (*offers, error) {
	s.mu.Lock()
	known := s.offers
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	now, err := s.login.session(ctx)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(now.url)
	if err != nil {
		return nil, errors.New("the storage URL of the log-in isn't a URL")
	}
	u.Path = path.Join(u.Path, "..", "..", "info")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	o := &offers{}
	switch {
	case resp.StatusCode == http.StatusOK:
		err = readJSON(ctx, resp, o)
	case kindOf(resp.StatusCode) == storage.ErrUnavailable: //nolint:errorlint // kindOf returns it bare
		err = s.refusal(resp)
	default:
		discard(resp) // it doesn't say
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers = o
	return o, nil
}

// partBytes returns the size of the segments of an object of size bytes; an object
// that isn't larger has none.
func (s *Store) partBytes(ctx context.Context, size int64) (int64, error) {
	part := s.place.segmentSize
	if most := s.maximum.Load(); most > 0 {
		part = min(part, most)
	}
	if size <= part {
		return part, nil
	}
	o, err := s.info(ctx)
	if err != nil {
		return 0, err
	}
	segments := o.SLO.MaxSegments
	if segments <= 0 {
		segments = defaultSegments
	}
	part = max(part, (size+segments-1)/segments)
	if most := o.Swift.MaxFileSize; most > 0 && part > most {
		if size > most*segments {
			return 0, fmt.Errorf("the server takes objects of at most %d segments of %d bytes, and this one has %d bytes", segments, most, size)
		}
		part = most
	}
	return part, nil
}

// smallerPart returns the size of segments for a body that the server refused as
// too large.
func (s *Store) smallerPart(ctx context.Context, size int64, cause error) (int64, error) {
	o, err := s.info(ctx)
	if err != nil {
		return 0, err
	}
	most := o.Swift.MaxFileSize
	if most <= 0 || most >= size {
		return 0, fmt.Errorf("%w: the server doesn't say how large objects may be; set segment_size in the URL", cause)
	}
	s.maximum.Store(most)
	return s.partBytes(ctx, size)
}

// hasLarge reports whether objects can have segments.
func (s *Store) hasLarge(ctx context.Context) (bool, error) {
	s.mu.Lock()
	known := s.large || time.Now().Before(s.largeUntil)
	large := s.large
	s.mu.Unlock()
	if known {
		return large, nil
	}
	resp, err := s.look(ctx, s.segments())
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusForbidden: // who may not look there has put none
		discard(resp)
	default:
		if err := s.done(resp); err != nil {
			return false, err
		}
		large = resp.Header.Get("X-Container-Object-Count") != "0"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.large = s.large || large
	s.largeUntil = time.Now().Add(largeBelieved)
	return s.large, nil
}

// target names an object of any container.
type target struct{ container, name string }

// segment is one line of a manifest to be put.
type segment struct {
	Path string `json:"path"`
	ETag string `json:"etag"`
	Size int64  `json:"size_bytes"`
}

// putLarge puts segments of part bytes and then their manifest.
func (s *Store) putLarge(ctx context.Context, name string, body storage.Body, part int64, isNew bool) error {
	if isNew { // saves sending segments in vain; the put of the manifest decides
		if _, err := s.head(ctx, name); err == nil {
			return storage.ErrExist
		} else if !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	s.mu.Lock()
	s.large = true
	s.mu.Unlock()
	folder := fmt.Sprintf("%s/%s-%d/", name, s.id, s.counter.Add(1))
	size := body.Size()
	segments := make([]segment, (size+part-1)/part)
	names := make([]target, len(segments))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(segmentsAtOnce)
	for i := range segments {
		off := int64(i) * part
		piece := section{body, off, min(part, size-off)}
		names[i] = target{s.segments(), fmt.Sprintf("%s%08d", folder, i)}
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			sum, err := s.putSegment(gctx, names[i], piece)
			segments[i] = segment{"/" + names[i].container + "/" + names[i].name, sum, piece.n}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.takeBack(ctx, names, err)
	}
	stored, err := s.putManifest(ctx, name, segments, isNew)
	if err != nil && !stored {
		return s.takeBack(ctx, names, err)
	}
	return err
}

func (s *Store) putSegment(ctx context.Context, o target, piece section) (string, error) {
	sum, err := piece.md5(ctx)
	if err == nil {
		err = s.putHashed(ctx, o, piece, sum, false)
	}
	return sum, err
}

// takeBack deletes the segments of a put that failed with err, and returns err.
func (s *Store) takeBack(ctx context.Context, names []target, err error) error {
	if ctx.Err() == nil {
		s.deleteNames(ctx, names) //nolint:errcheck // what is left costs space and nothing else
	}
	return err
}

// putManifest puts the manifest. After an error, stored says that it may be there.
func (s *Store) putManifest(ctx context.Context, name string, segments []segment, isNew bool) (stored bool, err error) {
	text, err := json.Marshal(segments)
	if err != nil {
		return false, err
	}
	all := md5.New()
	for _, seg := range segments {
		all.Write([]byte(seg.ETag))
	}
	sum := hex.EncodeToString(all.Sum(nil)) // what Swift calls the ETag of a large object
	header := http.Header{"Content-Type": {contentType}, "Etag": {sum}}
	if isNew {
		header.Set("If-None-Match", "*")
	}
	resp, err := s.do(ctx, request{method: http.MethodPut, container: s.place.container, name: name, header: header,
		query: url.Values{"multipart-manifest": {"put"}}, body: &section{bytes.NewReader(text), 0, int64(len(text))}})
	if err != nil {
		return true, err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		discard(resp)
		return true, sameETag(resp, sum)
	case http.StatusNotFound:
		discard(resp)
		return false, s.noContainer(s.place.container)
	}
	return resp.StatusCode >= 500, s.putRefused(resp, isNew)
}

// segmentsOf returns the segments of the object that is there, if it has any.
func (s *Store) segmentsOf(ctx context.Context, name string) ([]target, error) {
	large, err := s.isLarge(ctx, name)
	if err != nil || !large {
		return nil, err
	}
	resp, err := s.do(ctx, request{method: http.MethodGet, container: s.place.container, name: name, query: url.Values{"multipart-manifest": {"get"}}})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Static-Large-Object") == "" {
		discard(resp)
		return nil, nil // deleted or replaced meanwhile
	}
	var list []struct{ Name string }
	if err := readJSON(ctx, resp, &list); err != nil {
		return nil, err
	}
	var names []target
	for _, seg := range list {
		container, name, _ := strings.Cut(strings.TrimPrefix(seg.Name, "/"), "/")
		names = append(names, target{container, name})
	}
	return names, nil
}

// isLarge reports whether the object that is there, if one is, has segments.
func (s *Store) isLarge(ctx context.Context, name string) (bool, error) {
	if large, err := s.hasLarge(ctx); err != nil || !large {
		return false, err
	}
	header, err := s.head(ctx, name)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	return err == nil && header.Get("X-Static-Large-Object") != "", err
}
