package cdk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cdk"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// places numbers buckets, so that each has a name of its own.
var places atomic.Int64

// cloud is a service that the tests run against.
type cloud struct {
	name string
	// start starts its emulator and sets the environment.
	start func(t *testing.T)
	open  func(ctx context.Context, url string, opts cdk.Options) (*cdk.Store, error)
	// url returns the URL of a place.
	url func(place, prefix string) string
}

func clouds() []cloud {
	return []cloud{
		{"gcs", startGCS, cdk.OpenGCS, func(place, prefix string) string { return "gs://" + place + prefix }},
		{"azure", startAzurite, cdk.OpenAzure, func(place, prefix string) string { return "azblob://" + place + prefix + "?protocol=http" }},
	}
}

func startGCS(t *testing.T) {
	t.Helper()
	t.Setenv("STORAGE_EMULATOR_HOST", testenv.GCS(t))
	t.Setenv("GOOGLE_CLOUD_PROJECT", "test")
}

func startAzurite(t *testing.T) {
	t.Helper()
	noAzure(t)
	a := testenv.Azurite(t)
	t.Setenv("AZURE_STORAGE_ACCOUNT", a.Account)
	t.Setenv("AZURE_STORAGE_KEY", a.Key)
	t.Setenv("AZURE_STORAGE_DOMAIN", a.Domain)
}

// noAzure empties what would lead to somebody's account.
func noAzure(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"ACCOUNT", "KEY", "SAS_TOKEN", "CONNECTION_STRING", "DOMAIN", "PROTOCOL", "IS_CDN", "IS_LOCAL_EMULATOR",
	} {
		t.Setenv("AZURE_STORAGE_"+name, "")
	}
	t.Setenv("AZURE_STORAGEBLOB_CONNECTIONSTRING", "")
}

func (c cloud) newPlace() string { return fmt.Sprintf("place-%d", places.Add(1)) }

func (c cloud) create(t *testing.T, url string) *cdk.Store {
	t.Helper()
	s, err := c.open(t.Context(), url, cdk.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			c.start(t)
			open := func(prefix string) func(t *testing.T) storage.Store {
				return func(t *testing.T) storage.Store { return c.create(t, c.url(c.newPlace(), prefix)) }
			}
			t.Run("below a prefix", func(t *testing.T) { storagetest.Run(t, open("/some/prefix")) })
			t.Run("the whole", func(t *testing.T) { storagetest.RunFew(t, open(""), "valid keys", "list beside changes") })
		})
	}
}

func put(ctx context.Context, s storage.Store, key storage.Key, body string) error {
	return s.Put(ctx, key, strings.NewReader(body), storage.PutOptions{})
}

func get(ctx context.Context, s storage.Store, key storage.Key) (string, error) {
	var b []byte
	err := s.Get(ctx, key, 0, -1, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return string(b), err
}

func TestCreate(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			c.start(t)
			url := c.url(c.newPlace(), "/p")
			if _, err := c.open(t.Context(), url, cdk.Options{}); !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "has no such") {
				t.Errorf("open of what isn't there: got %v, want ErrUnavailable and that there is no such place", err)
			}
			s := c.create(t, url)
			if s.URL() != url {
				t.Errorf("URL: got %s, want %s", s.URL(), url)
			}
			if err := put(t.Context(), s, "a", "x"); err != nil {
				t.Fatal(err)
			}
			again := c.create(t, url+"") // it is there now
			if got, err := get(t.Context(), again, "a"); err != nil || got != "x" {
				t.Errorf("after opening again: got %q, %v", got, err)
			}
			plain, err := c.open(t.Context(), url, cdk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			plain.Close()
		})
	}
}
