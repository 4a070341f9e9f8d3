package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/slipcover/slipcover/internal/storage"
)

// metadataTimeout bounds how long the machine's own service is asked for a role:
// on most machines there is none.
const metadataTimeout = 5 * time.Second

// findCredentials looks in the places and the order of Amazon's own tools, takes
// the first place that is set up, and says what is wrong there: going on to the
// next would act as somebody else.
func findCredentials(ctx context.Context, rt http.RoundTripper) (*credentials.Credentials, error) {
	client := &http.Client{Transport: rt}
	key, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	switch {
	case key != "" && secret != "":
		return credentials.NewStaticV4(key, secret, os.Getenv("AWS_SESSION_TOKEN")), nil
	case key != "" || secret != "":
		return nil, fmt.Errorf("%w: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set", storage.ErrDenied)
	case os.Getenv("AWS_PROFILE") != "":
		return ask(ctx, client, "the profile that AWS_PROFILE names", &credentials.FileAWSCredentials{})
	case anySet("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
		return ask(ctx, client, "the role of this container", &credentials.IAM{})
	}
	file, err := ask(ctx, client, "the default profile", &credentials.FileAWSCredentials{Profile: "default"})
	if err == nil {
		return file, nil
	}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") == "true" {
		return nil, errNoCredentials
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	role, err := ask(ctx, client, "the role of this machine", &credentials.IAM{Endpoint: strings.TrimSuffix(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/")})
	if err != nil {
		return nil, errNoCredentials
	}
	return role, nil
}

var errNoCredentials = fmt.Errorf("%w: no keys found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for ~/.aws/credentials, or give the machine a role", storage.ErrDenied)

// ask gets the first credentials, which the result keeps and renews in time.
func ask(ctx context.Context, client *http.Client, where string, p credentials.Provider) (*credentials.Credentials, error) {
	c := credentials.New(p)
	v, err := c.GetWithContext(&credentials.CredContext{Client: client, Context: ctx})
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("it has no keys")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", storage.ErrDenied, where, hideQuery(err))
	}
	return c, nil
}

func anySet(names ...string) bool {
	for _, name := range names {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
