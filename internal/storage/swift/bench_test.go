package swift_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/swift"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Benchmark puts and gets objects of the size of the repository's segments, four at
// a time, beside the stock client with as many threads.
func Benchmark(b *testing.B) {
	const size, count, atOnce = 8 << 20, 32, 4
	server := testenv.Swift(b)
	url := newContainer()
	container := strings.TrimPrefix(url, "swift://")
	s, err := swift.Open(b.Context(), url, swift.Options{Create: true, Getenv: getenv(server.Vars)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	dir := b.TempDir()
	body := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range count {
		rnd.Read(body)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), body, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	stock := func(args ...string) {
		cmd := exec.CommandContext(b.Context(), testenv.Tool(b, "swift"), args...)
		cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, server.Env()...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("swift %s: %v: %s", args[0], err, out)
		}
	}
	each := func(do func(i int) error) {
		var g errgroup.Group
		g.SetLimit(atOnce)
		for i := range count {
			g.Go(func() error { return do(i) })
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	tests := []struct {
		name string
		do   func(round int)
	}{
		{"put", func(round int) {
			each(func(i int) error {
				body, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					return err
				}
				return s.Put(b.Context(), storage.Key(fmt.Sprintf("own/%d/%d", round, i)), bytes.NewReader(body), isNew)
			})
		}},
		{"swift-upload", func(int) {
			stock("upload", "--object-threads", fmt.Sprint(atOnce), "--object-name", "stock", container, ".")
		}},
		{"get", func(int) {
			each(func(i int) error {
				return s.Get(b.Context(), storage.Key(fmt.Sprintf("own/0/%d", i)), 0, -1, func(r io.Reader) error {
					_, err := io.Copy(io.Discard, r)
					return err
				})
			})
		}},
		{"swift-download", func(int) {
			stock("download", "--object-threads", fmt.Sprint(atOnce), "--prefix", "stock/", "-D", b.TempDir(), container)
		}},
	}
	rounds := 0
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(size * count)
			for b.Loop() {
				tt.do(rounds)
				rounds++
			}
		})
	}
}
