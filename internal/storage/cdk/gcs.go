package cdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	gcs "cloud.google.com/go/storage"
	"gocloud.dev/blob"
	"gocloud.dev/blob/gcsblob"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

// OpenGCS opens gs://bucket/prefix. The one parameter is anonymous=true, for buckets
// that everybody may read. Credentials are Google's application default ones;
// STORAGE_EMULATOR_HOST leads to an emulator.
func OpenGCS(ctx context.Context, raw string, opts Options) (*Store, error) {
	p, err := parseURL(raw, gcsblob.Scheme, "anonymous")
	if err != nil {
		return nil, err
	}
	client, project, err := gcsClient(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", p.url, err)
	}
	bucket, err := gcsblob.OpenBucket(ctx, nil, p.bucket, &gcsblob.Options{Client: client})
	if err != nil {
		_ = client.Close() // the first error counts
		return nil, fmt.Errorf("open storage %s: %w", p.url, err)
	}
	return open(ctx, p, service{
		name: "Google Cloud Storage", place: "bucket", bucket: bucket,
		upload: func(ctx context.Context, name string, body io.ReadSeeker, sum []byte, ifAbsent bool) error {
			// A buffer of -1 makes it one request that is sent as it is read.
			return bucket.Upload(ctx, name, body, &blob.WriterOptions{
				BufferSize: -1, ContentType: contentType, ContentMD5: sum, IfNotExist: ifAbsent,
			})
		},
		md5: func(*blob.Reader) []byte { return nil }, // the SDK compares the CRC32C
		create: func(ctx context.Context) error {
			if project == "" {
				return fmt.Errorf("%w: the bucket isn't there, and to make it a project must be named in GOOGLE_CLOUD_PROJECT", storage.ErrNoPlace)
			}
			err := client.Bucket(p.bucket).Create(ctx, project, nil)
			if a, ok := gcsAnswer(err); ok && a.status == http.StatusConflict {
				return nil // or it is somebody else's, which the next look says
			}
			return err
		},
		answer: gcsAnswer,
		right: func(_, op string) string {
			return map[string]string{"put": "storage.objects.create", "get": "storage.objects.get", "stat": "storage.objects.get",
				"list": "storage.objects.list", "delete": "storage.objects.delete"}[op]
		},
		close: client.Close,
	}, opts)
}

// gcsClient returns a client and the project of its credentials, "" if not known.
func gcsClient(ctx context.Context, p place) (*gcs.Client, string, error) {
	anonymous := false
	if v := p.params.Get("anonymous"); v != "" {
		var err error
		if anonymous, err = strconv.ParseBool(v); err != nil {
			return nil, "", errors.New("the parameter anonymous is true or false")
		}
	}
	project := os.Getenv("GOOGLE_CLOUD_PROJECT")
	transport := web.Service{Name: "Google Cloud Storage", CA: caVariable}.Transport(newTransport(stallTime))
	var options []option.ClientOption
	if !anonymous && os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		creds, err := google.FindDefaultCredentials(context.WithoutCancel(ctx), gcs.ScopeReadWrite)
		if err != nil {
			return nil, "", fmt.Errorf("%w: there are no usable credentials of Google: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key", storage.ErrDenied)
		}
		if project == "" {
			project = creds.ProjectID
		}
		if domain, err := creds.GetUniverseDomain(); err == nil && domain != "" {
			options = append(options, option.WithUniverseDomain(domain))
		}
		transport = &oauth2.Transport{Source: creds.TokenSource, Base: transport}
	}
	options = append(options, option.WithHTTPClient(&http.Client{Transport: onceTransport{transport}}), gcs.WithJSONReads())
	client, err := gcs.NewClient(ctx, options...)
	if err != nil {
		return nil, "", err
	}
	client.SetRetry(gcs.WithPolicy(gcs.RetryNever))
	return client, project, nil
}

// gcsAnswer reads an error of Google's SDK. A token that couldn't be had counts as
// an answer.
func gcsAnswer(err error) (answer, bool) {
	if re := (*oauth2.RetrieveError)(nil); errors.As(err, &re) && re.Response != nil {
		return answer{status: re.Response.StatusCode, code: re.ErrorCode, message: re.ErrorDescription, kind: deniedToken(re.Response.StatusCode)}, true
	}
	ge := (*googleapi.Error)(nil)
	if !errors.As(err, &ge) {
		switch {
		case errors.Is(err, gcs.ErrBucketNotExist):
			return answer{status: http.StatusNotFound, noPlace: true}, true
		case errors.Is(err, gcs.ErrObjectNotExist):
			return answer{status: http.StatusNotFound, maybe: true}, true
		}
		return answer{}, false
	}
	a := answer{status: ge.Code, message: ge.Message, after: web.RetryAfter(ge.Header)}
	if len(ge.Errors) > 0 {
		a.code = ge.Errors[0].Reason
	}
	switch {
	case errors.Is(err, gcs.ErrBucketNotExist):
		a.noPlace = true
	case ge.Code == http.StatusNotFound:
		a.maybe = true
	case ge.Code == http.StatusBadRequest && strings.Contains(ge.Message, "doesn't match calculated"):
		a.kind = storage.ErrUnavailable // the MD5 of the body is not that of what came
	case ge.Code == http.StatusPreconditionFailed:
		a.kind = storage.ErrExist
	case a.code == "retentionPolicyNotMet" || a.code == "objectUnderActiveHold":
		a.kind = storage.ErrRetained
	case a.code == "rateLimitExceeded" || a.code == "userRateLimitExceeded" || a.code == "quotaExceeded":
		a.kind = storage.ErrUnavailable // also with status 403
	}
	return a, true
}

// deniedToken says what it means that a token wasn't given.
func deniedToken(status int) error {
	if status == http.StatusTooManyRequests || status >= 500 {
		return storage.ErrUnavailable
	}
	return storage.ErrDenied
}
