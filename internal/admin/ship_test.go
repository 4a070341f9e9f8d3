package admin_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/access"
)

func TestShip(t *testing.T) {
	w := newWorld(t)
	root, operator := w.Token(project, access.Admin), w.Token(project, access.Operator)
	p := w.play(root, "db1")
	path := "/instances/" + p.Instance + "/ship"
	type ship struct {
		Enabled, Reported bool
		KeepMoments       string `json:"keep_moments"`
	}
	for _, test := range []struct {
		method, body string
		want         ship
	}{
		{"GET", "", ship{}},
		{"PUT", `{"enabled":true,"keep_moments":"7d"}`, ship{Enabled: true, KeepMoments: "7d"}},
		{"PUT", `{"enabled":false}`, ship{KeepMoments: "7d"}},
		{"PUT", `{"enabled":true,"keep_moments":""}`, ship{Enabled: true}},
		{"GET", "", ship{Enabled: true}},
	} {
		var got ship
		if w.into(w.do(test.method, path, operator, test.body), 200, "ship", &got); got != test.want {
			t.Errorf("%s %s: %+v", test.method, test.body, got)
		}
	}
	var list []struct{ Ship *ship }
	if w.into(w.do("GET", "/instances", operator, ""), 200, "instances", &list); len(list) != 1 || list[0].Ship == nil || !list[0].Ship.Enabled {
		t.Errorf("the instances: %+v", list)
	}
	w.refused(w.do("PUT", path, operator, `{"keep_moments":"7"}`), 400, "invalid", "such as 14d")
	w.refused(w.do("PUT", path, operator, `{"enable":true}`), 400, "invalid", "unknown field")
	w.refused(w.do("PUT", path, w.Token("other", access.Operator), `{"enabled":true}`), 404, "not_found", "")
}
