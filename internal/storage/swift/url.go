package swift

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	form = "swift://container/prefix"

	// defaultSegment is far above the repository's own segments, so that they are
	// one object each, and small enough to be sent again after a fault.
	defaultSegment = 256 << 20
	// leastSegment is rate_limit_under_size of Swift's filter slo.
	leastSegment = 1 << 20
	// defaultTimeout is longer than the times after which Swift's own servers give
	// up on each other.
	defaultTimeout = 60 * time.Second
)

// place is what a URL says.
type place struct {
	container   string
	prefix      string // "" or valid as a key
	segmentSize int64  // bytes
	timeout     time.Duration
	region      string
	authURL     string
	user        string
	project     string
	policy      string
	query       string // the parameters as String shows them
}

// String returns the URL.
func (p place) String() string {
	s := "swift://" + url.PathEscape(p.container)
	if p.prefix != "" {
		s += "/" + p.prefix
	}
	if p.query != "" {
		s += "?" + p.query
	}
	return s
}

// parseURL reads a URL. Its errors don't quote what may be a secret in the wrong
// place.
func parseURL(raw string) (place, error) {
	rest, ok := strings.CutPrefix(raw, "swift://")
	if !ok || strings.Contains(rest, "#") {
		return place{}, errors.New("not a Swift URL: write " + form)
	}
	path, query, _ := strings.Cut(rest, "?")
	name, prefix, _ := strings.Cut(path, "/")
	container, err := url.PathUnescape(name)
	switch {
	case strings.ContainsAny(name, "@:"):
		return place{}, errors.New("a Swift URL has no user, password or host: write " + form + ", and give the log-in in the environment")
	case err != nil || container == "" || len(container) > 256 || strings.ContainsAny(container, "/\x00"):
		return place{}, errors.New("the Swift URL names no valid container: write " + form)
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix != "" && !storage.Key(prefix).Valid() {
		return place{}, fmt.Errorf("swift://%s: the prefix may have letters, digits, . _ - and single slashes", name)
	}
	p := place{container: container, prefix: prefix, segmentSize: defaultSegment, timeout: defaultTimeout}
	values, err := url.ParseQuery(query)
	if err != nil {
		return place{}, fmt.Errorf("%s: its parameters can't be read: write name=value, joined by &", p)
	}
	for key, v := range values {
		if err := p.set(key, v); err != nil {
			return place{}, fmt.Errorf("%s: %w", p, err)
		}
	}
	p.query = values.Encode()
	return p, nil
}

func (p *place) set(key string, values []string) error {
	v := values[0]
	if len(values) > 1 || v == "" {
		return fmt.Errorf("the parameter %q must be given once, with a value", key)
	}
	var err error
	switch key {
	case "segment_size":
		if p.segmentSize, err = parseSize(v); err == nil && p.segmentSize < leastSegment {
			err = errors.New("it is below 1MiB, and of smaller segments Swift gives one each second")
		}
	case "timeout":
		if p.timeout, err = time.ParseDuration(v); err == nil && p.timeout < time.Second {
			err = errors.New("it is below 1s")
		}
	case "region":
		p.region = v
	case "auth_url":
		u, perr := url.Parse(v)
		if perr != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("the parameter auth_url must be an http or https URL, without a user or password")
		}
		p.authURL = v
	case "user":
		p.user = v
	case "project":
		p.project = v
	case "policy":
		p.policy = v
	case "password", "key", "token", "secret":
		return errors.New("secrets don't belong in a URL; give the log-in in the environment")
	default:
		return fmt.Errorf("there is no parameter %q; there are segment_size, region, auth_url, user, project, policy and timeout", key)
	}
	if err != nil {
		return fmt.Errorf("the parameter %s=%s can't be used: %w", key, v, err)
	}
	return nil
}

// parseSize reads a number of bytes, or one of KiB, MiB or GiB.
func parseSize(s string) (int64, error) {
	number, unit := s, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > (1<<50)/unit {
		return 0, errors.New("write bytes, or a number with KiB, MiB or GiB")
	}
	return n * unit, nil
}
