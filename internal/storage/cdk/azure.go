package cdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

// OpenAzure opens azblob://container/prefix, with the parameters storage_account,
// domain, protocol and localemu. Credentials are the first of these that is set:
// AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,
// AZURE_STORAGE_CONNECTION_STRING, and else what Azure's SDK finds (a managed
// identity, a workload's, a log-in of its command line).
func OpenAzure(ctx context.Context, raw string, opts Options) (*Store, error) {
	p, err := parseURL(raw, azureblob.Scheme, "storage_account", "domain", "protocol", "localemu")
	if err != nil {
		return nil, err
	}
	transport := newTransport(stallTime)
	client, err := azureClient(p, transport)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", p.url, err)
	}
	bucket, err := azureblob.OpenBucket(ctx, client, nil)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", p.url, err)
	}
	return open(ctx, p, service{
		name: "Azure", place: "container", bucket: bucket,
		upload: func(ctx context.Context, name string, body io.ReadSeeker, sum []byte, ifAbsent bool) error {
			return azureUpload(ctx, client.NewBlockBlobClient(name), body, sum, ifAbsent)
		},
		md5: azureMD5,
		create: func(ctx context.Context) error {
			_, err := client.Create(ctx, nil)
			if bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
				return nil
			}
			return err
		},
		answer: azureAnswer,
		right:  azureRight,
		close: func() error {
			transport.CloseIdleConnections()
			return nil
		},
	}, opts)
}

// azureRight names roles and the letters of a token's permissions.
//
// Source: Azure's documentation, "Common REST API error codes" and "Create a service
// SAS", permissions of a directory, container, or blob.
func azureRight(code, op string) string {
	switch code {
	case "AuthenticationFailed", "AuthorizationFailure", "InsufficientAccountPermissions", "AccountIsDisabled":
		return "" // the key, the firewall, the account
	}
	letter := map[string]string{"put": "c and w", "get": "r", "stat": "r", "list": "l", "delete": "d"}[op]
	if letter == "" {
		return ""
	}
	role := "Storage Blob Data Contributor"
	if op != "put" && op != "delete" {
		role = "Storage Blob Data Reader"
	}
	return fmt.Sprintf("the role %s, or %s in the permissions of the token (sp=)", role, letter)
}

// azureUpload goes past the CDK, which would buffer the body, and cut a large one
// into blocks that a Put of the same key beside it throws away.
func azureUpload(ctx context.Context, client *blockblob.Client, body io.ReadSeeker, sum []byte, ifAbsent bool) error {
	typ := contentType
	opts := &blockblob.UploadOptions{
		HTTPHeaders:             &azblob.HTTPHeaders{BlobContentType: &typ, BlobContentMD5: sum},
		TransactionalValidation: azblob.TransferValidationTypeMD5(sum),
	}
	if ifAbsent {
		any := azcore.ETagAny
		opts.AccessConditions = &azblob.AccessConditions{
			ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: &any},
		}
	}
	_, err := client.Upload(ctx, streaming.NopCloser(body), opts)
	return err
}

// azureMD5 returns the MD5 that Azure keeps of an object. In an answer to a request
// for a range, ContentMD5 would be the range's.
func azureMD5(r *blob.Reader) []byte {
	var resp azblob.DownloadStreamResponse
	if !r.As(&resp) {
		return nil
	}
	if len(resp.BlobContentMD5) > 0 {
		return resp.BlobContentMD5
	}
	return resp.ContentMD5
}

// azureClient makes the client that the environment and the URL describe.
func azureClient(p place, transport *http.Transport) (*container.Client, error) {
	opts := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: web.Service{Name: "Azure", CA: caVariable}.Transport(transport)},
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}}
	account, key, sas := os.Getenv("AZURE_STORAGE_ACCOUNT"), os.Getenv("AZURE_STORAGE_KEY"), os.Getenv("AZURE_STORAGE_SAS_TOKEN")
	conn := os.Getenv("AZURE_STORAGE_CONNECTION_STRING")
	withKey := account != "" && key != ""
	if !withKey && sas == "" && conn != "" {
		if len(p.params) > 0 {
			return nil, errors.New("with AZURE_STORAGE_CONNECTION_STRING, which says where the account is, the URL can have no parameters")
		}
		client, err := container.NewClientFromConnectionString(conn, p.bucket, opts)
		if err != nil {
			return nil, errors.New("AZURE_STORAGE_CONNECTION_STRING can't be read; copy it again from the account's access keys")
		}
		return client, nil
	}
	if !withKey && sas != "" && len(p.params) > 0 {
		// The token would go wherever the URL leads.
		return nil, errors.New("with AZURE_STORAGE_SAS_TOKEN the URL can have no parameters; set AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_DOMAIN and AZURE_STORAGE_PROTOCOL instead")
	}
	place, err := azureURL(p, strings.TrimPrefix(sas, "?"), withKey)
	if err != nil {
		return nil, err
	}
	switch {
	case withKey:
		cred, err := container.NewSharedKeyCredential(account, key)
		if err != nil {
			return nil, errors.New("AZURE_STORAGE_KEY is not an account's key, which is base64; copy it again")
		}
		return container.NewClientWithSharedKeyCredential(place, cred, opts)
	case sas != "":
		return container.NewClientWithNoCredential(place, opts)
	}
	cred, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: there are no usable credentials of Azure: set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY", storage.ErrDenied)
	}
	return container.NewClient(place, cred, opts)
}

// azureURL returns the URL of the container, with the SAS token if there is one.
func azureURL(p place, sas string, withKey bool) (string, error) {
	o := azureblob.NewDefaultServiceURLOptions()
	o.SASToken = sas
	if withKey {
		o.SASToken = ""
	}
	if v := p.params.Get("storage_account"); v != "" {
		o.AccountName = v
	}
	if v := p.params.Get("domain"); v != "" {
		o.StorageDomain = v
	}
	if v := p.params.Get("protocol"); v != "" {
		o.Protocol = v
	}
	if v := p.params.Get("localemu"); v != "" {
		var err error
		if o.IsLocalEmulator, err = strconv.ParseBool(v); err != nil {
			return "", errors.New("the parameter localemu is true or false")
		}
	}
	if o.AccountName == "" {
		return "", errors.New("the storage account isn't known: set AZURE_STORAGE_ACCOUNT or add ?storage_account=name to the URL")
	}
	if o.Protocol != "" && o.Protocol != "http" && o.Protocol != "https" {
		return "", errors.New("the protocol is http or https")
	}
	account, err := azureblob.NewServiceURL(o)
	if err != nil {
		return "", errors.New("the account's name and domain make no URL")
	}
	place, err := url.JoinPath(string(account), p.bucket)
	if err != nil {
		return "", errors.New("the account's name and domain make no URL")
	}
	return place, nil
}

// azureAnswer reads an error of Azure's SDK. A token that couldn't be had counts as
// an answer.
func azureAnswer(err error) (answer, bool) {
	if ae := (*azidentity.AuthenticationFailedError)(nil); errors.As(err, &ae) && ae.RawResponse != nil {
		return answer{status: ae.RawResponse.StatusCode, message: "the credentials were refused", kind: deniedToken(ae.RawResponse.StatusCode)}, true
	}
	re := (*azcore.ResponseError)(nil)
	if !errors.As(err, &re) {
		return answer{}, false
	}
	a := answer{status: re.StatusCode, code: re.ErrorCode}
	if re.RawResponse != nil {
		a.after = web.RetryAfter(re.RawResponse.Header)
	}
	switch code := bloberror.Code(re.ErrorCode); {
	case code == bloberror.ContainerNotFound, code == bloberror.ContainerBeingDeleted:
		a.noPlace = true
	case code == bloberror.BlobNotFound:
		a.noObject = true
	case code == bloberror.BlobAlreadyExists, code == bloberror.ConditionNotMet:
		a.kind = storage.ErrExist
	case code == bloberror.BlobImmutableDueToPolicy:
		a.kind = storage.ErrRetained
	case code == bloberror.MD5Mismatch, code == bloberror.ContainerDisabled:
		a.kind = storage.ErrUnavailable
	case re.StatusCode == http.StatusNotFound:
		a.maybe = true
	}
	return a, true
}
