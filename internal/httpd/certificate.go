package httpd

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often the files of a certificate are looked at, at most.
const lookEvery = time.Second

// certificate is one that is read again when its files change. Files that can't be
// used leave the one before in use: of two files one may be new and the other not yet.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate // guarded by mu, as all below
	seen   [2]fileState     // of the files that pair is from
	looked time.Time
	failed string // what was logged last
}

type fileState struct {
	size     int64
	modified time.Time
	mode     fs.FileMode
}

func stateOf(path string) (fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	return fileState{info.Size(), info.ModTime(), info.Mode()}, nil
}

// load reads the files if they aren't those that were read last.
func (c *certificate) load() error {
	var now [2]fileState
	for i, path := range []string{c.certFile, c.keyFile} {
		var err error
		if now[i], err = stateOf(path); err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
	}
	if c.pair != nil && now == c.seen {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair, c.seen = &pair, now
	return nil
}

func (c *certificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookEvery {
		return c.pair, nil
	}
	before := c.pair
	err := c.load()
	c.looked = time.Now()
	switch {
	case err != nil && err.Error() != c.failed:
		c.failed = err.Error()
		c.log.ErrorContext(hello.Context(), "certificate can't be read again, the one before stays", "err", err)
	case err == nil && c.pair != before:
		c.failed = ""
		c.log.InfoContext(hello.Context(), "certificate read again", "file", c.certFile, "fingerprint", Fingerprint(c.pair.Leaf), "expires", c.pair.Leaf.NotAfter)
	}
	return c.pair, nil
}
