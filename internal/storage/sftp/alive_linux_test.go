package sftp

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A server that hangs is given up.
func TestKeepAlive(t *testing.T) {
	d := testenv.SSHD(t)
	root := t.TempDir()
	q := url.Values{"identity_file": {d.Identity}, "known_hosts": {d.KnownHosts}}
	s, err := Open(t.Context(), "sftp://"+d.Users[0]+"@"+d.Addr+root+"?"+q.Encode(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	d.Freeze()
	go s.conn.keepAlive(100 * time.Millisecond) // sooner than the one that runs; before the freeze a slow answer would end it
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("stat on a server that hangs: got %v, want ErrUnavailable", err)
	}
	if took := time.Since(began); took > aliveTime {
		t.Errorf("it took %v", took)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("stat on a new connection: got %v, want ErrNotExist", err)
	}
}
