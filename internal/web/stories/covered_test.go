//go:build unix

package stories_test

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

// elsewhere are answers that no story looks at as a page, and why.
var elsewhere = map[string]string{
	"GET /schedules/firings":    "a part of the form of a schedule, which is looked at",
	"GET /login/project":        "only with Keystone: TestKeystone asks for it",
	"GET /backups/{id}/restore": "leads to the plan",
	"GET /restores/{id}/cancel": "is there while a restore by several agents takes its first step",
}

// covered are the pages that stories have looked at.
type covered struct {
	mux   *http.ServeMux
	pages []string

	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

var pageRoute = regexp.MustCompile(`(?m)^\t\{"(GET /[^"]*)", `)

// newCovered reads which pages there are. When all stories are told, it fails for each page that none of them looked at.
func newCovered(t *testing.T) *covered {
	t.Helper()
	c := &covered{mux: http.NewServeMux(), seen: map[string]bool{}}
	files, err := filepath.Glob("../*.go")
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		for _, m := range pageRoute.FindAllSubmatch(b, -1) {
			c.pages = append(c.pages, string(m[1]))
		}
	}
	for _, p := range c.pages {
		c.mux.Handle(p, http.NotFoundHandler())
	}
	t.Cleanup(func() {
		if run := flag.Lookup("test.run").Value.String(); t.Failed() || t.Skipped() || run != "" && !regexp.MustCompile(`^\^?(Test)?Stories\$?$`).MatchString(run) {
			return // not all were told
		}
		if _, missing := testenv.CouchDBBinary(); missing != "" {
			return
		}
		c.check(t)
	})
	return c
}

// add notes that a page was looked at.
func (c *covered) add(at string) {
	r, err := http.NewRequest(http.MethodGet, at, nil) //nolint:noctx // never sent
	if err != nil {
		return
	}
	_, pattern := c.mux.Handler(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[pattern] = true
}

func (c *covered) check(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pages) < 25 {
		t.Errorf("only %d pages were found in the sources: %q", len(c.pages), c.pages)
	}
	for _, p := range c.pages {
		if !c.seen[p] && elsewhere[p] == "" {
			t.Errorf("no story looks at %s", p)
		}
	}
	for p := range elsewhere {
		if c.seen[p] || !slices.Contains(c.pages, p) {
			t.Errorf("%s is looked at, or isn't there", p)
		}
	}
}
