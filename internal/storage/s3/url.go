package s3

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/slipcover/slipcover/internal/storage"
)

// settings are what a URL and the environment say.
type settings struct {
	url      string // as it was written
	bucket   string
	prefix   string  // "" or ends with "/"
	endpoint url.URL // scheme and host

	region      string // "" = ask AWS
	regionGiven bool   // not a guess

	pathStyle    string // "auto", "true" or "false"
	checkOnly    bool   // if_absent=check
	partSize     int64  // bytes
	timeout      time.Duration
	storageClass string
	encryption   encrypt.ServerSide // nil = what the bucket does by itself
	lockMode     minio.RetentionMode
}

const (
	defaultPartSize = 64 << 20
	minPartSize     = 5 << 20 // S3 refuses smaller parts
	maxPartSize     = 5 << 30
	defaultTimeout  = time.Minute
)

// parameters sets from each parameter of a URL its part of the settings.
var parameters = map[string]func(*settings, string) error{
	"endpoint": func(s *settings, v string) error { return s.setEndpoint(v, "endpoint") },
	"region": func(s *settings, v string) error {
		s.region, s.regionGiven = v, true
		return word(v)
	},
	"path_style": func(s *settings, v string) error {
		s.pathStyle = v
		return oneOf(v, "auto", "true", "false")
	},
	"if_absent": func(s *settings, v string) error {
		s.checkOnly = v == "check"
		return oneOf(v, "auto", "check")
	},
	"part_size": func(s *settings, v string) (err error) {
		s.partSize, err = parseSize(v)
		return err
	},
	"timeout": func(s *settings, v string) (err error) {
		if s.timeout, err = time.ParseDuration(v); err != nil || s.timeout < time.Second {
			return errors.New("it must be a time of at least one second, such as 90s")
		}
		return nil
	},
	"storage_class": func(s *settings, v string) error {
		s.storageClass = v
		return word(v)
	},
	"sse": func(s *settings, v string) error {
		switch kind, key, _ := strings.Cut(v, "="); {
		case v == "AES256":
			s.encryption = encrypt.NewSSE()
		case kind == "aws:kms" && (key != "" || v == kind):
			var err error
			s.encryption, err = encrypt.NewSSEKMS(key, nil)
			return err
		default:
			return errors.New("it must be AES256, aws:kms or aws:kms=KEY_ID")
		}
		return nil
	},
	"object_lock_mode": func(s *settings, v string) error {
		s.lockMode = minio.RetentionMode(strings.ToUpper(v))
		return oneOf(v, "governance", "compliance")
	},
}

// parseURL reads a URL, and the environment where the URL says nothing. Its errors
// quote no value: what is in the wrong place may be a secret.
func parseURL(raw string) (settings, error) {
	s := settings{url: raw, pathStyle: "auto", partSize: defaultPartSize, timeout: defaultTimeout, lockMode: minio.Governance}
	u, err := url.Parse(raw)
	if err != nil {
		return s, fmt.Errorf("not a valid s3 URL (%w): write %s", hideQuery(err), Form)
	}
	if u.User != nil {
		return s, fmt.Errorf("an s3 URL holds no keys, they come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY): write %s", Form)
	}
	if u.Scheme != "s3" || u.Fragment != "" || strings.Contains(raw, "#") {
		return s, fmt.Errorf("not a valid s3 URL: write %s", Form)
	}
	if err := s.setPlace(u); err != nil {
		return s, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return s, errors.New("the parameters of the s3 URL can't be read: write ?name=value&name=value")
	}
	if err := s.setEnvironment(query); err != nil {
		return s, err
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, known := parameters[name]
		if !known {
			return s, fmt.Errorf("s3 URL: there is no parameter %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		}
		if len(query[name]) > 1 {
			return s, fmt.Errorf("s3 URL: the parameter %s is there more than once", name)
		}
		if err := set(&s, query[name][0]); err != nil {
			return s, fmt.Errorf("s3 URL: parameter %s: %w", name, err)
		}
	}
	// Most servers that aren't Amazon's take this one, or say which one they want.
	if s.region == "" && !s3utils.IsAmazonEndpoint(s.endpoint) {
		s.region = "us-east-1"
	}
	return s, nil
}

func (s *settings) setPlace(u *url.URL) error {
	s.bucket = u.Host
	if err := s3utils.CheckValidBucketNameStrict(s.bucket); err != nil {
		return fmt.Errorf("s3 URL: %q is not a bucket's name (3 to 63 small letters, digits, dots and hyphens): write %s", s.bucket, Form)
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix == "" {
		return nil
	}
	if !storage.Key(prefix).Valid() {
		return errors.New("s3 URL: the prefix must be elements of the characters A-Z a-z 0-9 . _ - joined by /")
	}
	s.prefix = prefix + "/"
	return nil
}

func (s *settings) setEnvironment(query url.Values) error {
	s.endpoint = url.URL{Scheme: "https", Host: "s3.amazonaws.com"}
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if v := os.Getenv(name); v != "" && !query.Has("endpoint") {
			if err := s.setEndpoint(v, name); err != nil {
				return fmt.Errorf("environment: %w", err)
			}
			break
		}
	}
	s.region = cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	s.regionGiven = s.region != ""
	return nil
}

func (s *settings) setEndpoint(v, name string) error {
	form := fmt.Errorf("%s must be http://host:port or https://host:port, without a path", name)
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return form
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return form
	}
	s.endpoint = url.URL{Scheme: u.Scheme, Host: u.Host}
	return nil
}

func oneOf(v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("it must be one of %s", strings.Join(allowed, ", "))
}

// word accepts what can stand in a header and is meant to.
func word(v string) error {
	if v == "" || !storage.Key(v).Valid() || strings.Contains(v, "/") {
		return errors.New("it must be a word of letters, digits, _ and -")
	}
	return nil
}

func parseSize(v string) (int64, error) {
	wrong := errors.New("it must be a size from 5MiB to 5GiB")
	factor := int64(1)
	for unit, bytes := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(v, unit); ok {
			v, factor = number, bytes
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n > maxPartSize/factor || n*factor < minPartSize {
		return 0, wrong
	}
	return n * factor, nil
}
