package web

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
)

const (
	// liveEach is the least time between two looks at what a page shows, and liveMost the
	// longest: ages grow by themselves.
	liveEach = time.Second
	liveMost = 20 * time.Second
	// liveFor is how long one stream lasts; the browser opens the next by itself.
	liveFor   = 30 * time.Minute
	writeWait = 20 * time.Second
)

// streams says that a request is for the events of a page, at the page's own address.
func streams(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// stream sends the parts of a page that change by themselves, whenever they come out
// differently: the page is made again as for a request, so whoever may not see it any more
// sees no more of it.
func (c *call) stream() {
	out := http.NewResponseController(c.w)
	_ = out.SetReadDeadline(time.Time{}) // else the connection ends with the time for requests
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // to proxies that collect answers
	ctx, end := c.r.Context(), time.NewTimer(liveFor)
	defer end.Stop()
	var last [sha256.Size]byte
	for first := true; ; first = false {
		changed, began := c.o.Server.Changed(), time.Now()
		text, err := c.fragments()
		if err != nil && first {
			h.Del("Content-Type")
			c.fail(err)
			return
		}
		if err != nil {
			c.o.Log.WarnContext(ctx, "a page could not be sent again", "route", c.route.pattern, "err", err)
			return
		}
		event := []byte(": \n\n") // nothing new; it says that the stream is alive
		if sum := sha256.Sum256(text); sum != last {
			last, event = sum, sse(text)
		}
		_ = out.SetWriteDeadline(time.Now().Add(liveMost + writeWait))
		if _, err := c.w.Write(event); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		if !c.wait(changed, began, end.C) {
			return
		}
		if c.session != nil && !c.still() {
			return
		}
	}
}

// wait waits for a change, or until it is time to look in any case; false is the end.
func (c *call) wait(changed <-chan struct{}, began time.Time, end <-chan time.Time) bool {
	pause := time.NewTimer(liveEach)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-c.r.Context().Done():
		return false
	case <-c.ending:
		return false
	}
	late := time.NewTimer(liveMost - time.Since(began))
	defer late.Stop()
	select {
	case <-changed:
	case <-late.C:
	case <-end:
		return false
	case <-c.r.Context().Done():
		return false
	case <-c.ending:
		return false
	}
	return true
}

// still reports whether the session that opened a stream is there, its token good, and the
// role enough. If nobody knows now, it is.
func (c *call) still() bool {
	ctx := c.r.Context()
	cookie, err := c.r.Cookie(c.cookieName(c.r))
	if err != nil {
		return false
	}
	if _, err := c.sessions.find(ctx, cookie.Value); err != nil {
		return isUnavailable(err)
	}
	who, err := c.o.Checker.Check(ctx, c.session.token)
	return err == nil && who.May(max(c.route.needs, access.Viewer)) || isUnavailable(err)
}

// fragments are what is sent: the parts of the page, the menu, and the title.
func (c *call) fragments() ([]byte, error) {
	c.stood, c.worked, c.roomy = nil, nil, nil // they may stand otherwise by now
	a, err := c.route.do(c)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if a.view == nil || a.live == "" {
		return nil, fmt.Errorf("%s has nothing that changes", c.route.pattern)
	}
	a.view.Live = true
	c.complete(a.view)
	for _, name := range []string{"title", "menu", a.live} {
		if err := c.set.t.ExecuteTemplate(&b, name, a.view); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// sse is a text as one event of a stream.
func sse(text []byte) []byte {
	var b bytes.Buffer
	b.WriteString("event: page\n")
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if len(bytes.TrimSpace(line)) > 0 {
			b.WriteString("data: ")
			b.Write(bytes.ReplaceAll(line, []byte("\r"), nil))
			b.WriteByte('\n')
		}
	}
	b.WriteByte('\n')
	return b.Bytes()
}
