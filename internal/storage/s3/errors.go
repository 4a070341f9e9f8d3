package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

// codeVersioningNotConfigured is versitygw's for a server that was started without.
const codeVersioningNotConfigured = "VersioningNotConfigured"

// kinds says what the codes of errors mean for the contract. Those that aren't here
// go by their status.
var kinds = map[string]error{
	minio.NoSuchKey:     storage.ErrNotExist,
	minio.NoSuchVersion: storage.ErrNotExist,

	minio.PreconditionFailed: storage.ErrExist,

	minio.AccessDenied:       storage.ErrDenied,
	minio.AllAccessDisabled:  storage.ErrDenied,
	minio.InvalidAccessKeyID: storage.ErrDenied,
	"ExpiredToken":           storage.ErrDenied,
	"InvalidToken":           storage.ErrDenied,
	"XAdminUserNotFound":     storage.ErrDenied, // versitygw

	"QuotaExceeded":                  storage.ErrFull, // Ceph, versitygw
	"XMinioStorageFull":              storage.ErrFull,
	"XMinioAdminBucketQuotaExceeded": storage.ErrFull,

	// Bytes that came other than they were sent; an upload that others removed.
	minio.BadDigest:              storage.ErrUnavailable,
	minio.IncompleteBody:         storage.ErrUnavailable,
	"XAmzContentSHA256Mismatch":  storage.ErrUnavailable,
	minio.NoSuchUpload:           storage.ErrUnavailable,
	"RequestTimeout":             storage.ErrUnavailable,
	"SlowDown":                   storage.ErrUnavailable,
	"OperationAborted":           storage.ErrUnavailable,
	"ConditionalRequestConflict": storage.ErrUnavailable,
	minio.InternalError:          storage.ErrUnavailable,
	// versitygw, while a delete beside removes the folder; no key is another's folder.
	"ExistingObjectIsDirectory": storage.ErrUnavailable,
}

func kindOfStatus(status int) error {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return storage.ErrDenied
	case status == http.StatusInsufficientStorage:
		return storage.ErrFull
	case status == http.StatusNotImplemented:
		return nil
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return storage.ErrUnavailable
	}
	return nil
}

// wrap gives an error of the client its kind and says what was being done.
func (s *Store) wrap(ctx context.Context, op string, r *reply, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s: %w", op, ctxErr)
	}
	if be := (*storage.BodyError)(nil); errors.As(r.failure(), &be) {
		return fmt.Errorf("%s: %w", op, be)
	}
	return fmt.Errorf("%s: %w", op, s.kind(r, err))
}

func (s *Store) kind(r *reply, err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		// No answer, or one that broke off.
		if cause := r.failure(); cause != nil {
			err = cause
		}
		if unfit := (*storage.UnfitError)(nil); errors.As(err, &unfit) {
			return unfit
		}
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, hideQuery(err))
	}
	if err := s.sentence(r, answer); err != nil {
		return err
	}
	kind, known := kinds[answer.Code]
	if !known {
		kind = kindOfStatus(answer.StatusCode)
	}
	text := oneLine(answer.Message)
	if answer.Code != "" && !strings.Contains(text, answer.Code) {
		text += " (" + oneLine(answer.Code) + ")"
	}
	if kind == nil {
		return errors.New("the server refuses: " + text)
	}
	if right := s.lacking(r, answer, kind); right != "" {
		text = "the keys may lack the right " + right + ": " + text
	}
	err = fmt.Errorf("%w: %s", kind, text)
	if after := web.RetryAfter(r.headers()); after > 0 && errors.Is(kind, storage.ErrUnavailable) {
		return &storage.UnavailableError{After: after, Err: err}
	}
	return err
}

// lacking returns the right without which a request is denied, "" if the answer names
// it itself or is about something else.
func (s *Store) lacking(r *reply, answer minio.ErrorResponse, kind error) string {
	if !errors.Is(kind, storage.ErrDenied) || strings.Contains(answer.Message, "s3:") {
		return ""
	}
	req := r.request()
	if req == nil || answer.Code != minio.AccessDenied && r.status() != http.StatusForbidden || keysRefused[answer.Code] {
		return ""
	}
	return s.settings.right(req)
}

// keysRefused are codes of answers that refuse the keys and not what they ask for.
var keysRefused = map[string]bool{
	minio.InvalidAccessKeyID: true, minio.AllAccessDisabled: true, "ExpiredToken": true, "InvalidToken": true, "XAdminUserNotFound": true,
}

// sentence is for errors whose cure isn't in the server's words.
func (s *Store) sentence(r *reply, answer minio.ErrorResponse) error {
	switch answer.Code {
	case minio.NoSuchBucket:
		return s.noBucket()
	case minio.RequestTimeTooSkewed:
		return fmt.Errorf("%w: the clock of this machine and the storage's differ by %s, more than the storage allows: set the clock right",
			storage.ErrDenied, skew(r.get("Date")))
	case minio.SignatureDoesNotMatch:
		return fmt.Errorf("%w: the secret key is wrong (AWS_SECRET_ACCESS_KEY), or something between here and the storage changes requests", storage.ErrDenied)
	case minio.AuthorizationHeaderMalformed, minio.InvalidRegion, "PermanentRedirect", "IllegalLocationConstraintException":
		if answer.Region != "" {
			return fmt.Errorf("the bucket %s is in the region %s: write region=%s", s.settings.bucket, oneLine(answer.Region), oneLine(answer.Region))
		}
		return fmt.Errorf("the region is not the bucket's: write region=… (%s)", oneLine(answer.Message))
	case minio.InvalidObjectState:
		return errors.New("the object is in an archive class, from which it must be restored before it can be read (docs/s3.md)")
	}
	return nil
}

func (s *Store) noBucket() error {
	return fmt.Errorf("%w: there is no bucket %s at %s", storage.ErrNoPlace, s.settings.bucket, s.settings.endpoint.Host)
}

func skew(date string) string {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return "an unknown time"
	}
	return time.Since(theirs).Abs().Round(time.Minute).String()
}

// oneLine is for texts of servers and of what stands between: a page of HTML
// becomes its beginning.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
