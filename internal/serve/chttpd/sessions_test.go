package chttpd

import (
	"strings"
	"testing"
	"time"
)

// A session lasts for ten minutes, is renewed while it is used, and can't be made by anybody else.
func TestSessions(t *testing.T) {
	var s, other sessions
	begun := time.Unix(1767225600, 0)
	c := s.cookie(User{Name: "ann", Roles: []string{"staff"}}, begun)
	for after, want := range map[time.Duration]struct{ renew, ok bool }{
		0: {false, true}, 50 * time.Second: {false, true}, 61 * time.Second: {true, true}, 599 * time.Second: {true, true}, 600 * time.Second: {true, false}, time.Hour: {true, false},
	} {
		u, renew, ok := s.user(c, begun.Add(after))
		if renew != want.renew || ok != want.ok || ok && (u.Name != "ann" || strings.Join(u.Roles, " ") != "staff" || u.handler != "cookie") {
			t.Errorf("after %v: %+v, renew %v, ok %v", after, u, renew, ok)
		}
	}
	if _, _, ok := other.user(c, begun); ok {
		t.Error("a session of another program is one")
	}
	for i := range len(c) {
		for _, x := range []byte{'A', 'z', '.', '_'} {
			if c[i] == x {
				continue
			}
			bad := c[:i] + string(x) + c[i+1:]
			if _, _, ok := s.user(bad, begun); ok {
				t.Errorf("a session with another letter at %d is one: %s", i, bad)
			}
		}
	}
	for _, bad := range []string{"", ".", c[:len(c)-1], c + "A", strings.ToUpper(c), c[:strings.IndexByte(c, '.')]} {
		if _, _, ok := s.user(bad, begun); ok {
			t.Errorf("%q is a session", bad)
		}
	}
}
