package web

import (
	"bytes"
	"encoding/json"
	"html/template"
	"strings"

	"github.com/slipcover/slipcover/internal/serve"
)

// contentFunctions are those of the templates about what was in a moment.
var contentFunctions = template.FuncMap{
	"short":    shortRev,
	"indent":   indented,
	"kindicon": func(k serve.ChangeKind) string { icon, _ := kindWords(k); return icon },
	"outcome":  outcomeWords,
	"outcomeicon": func(dry bool) string {
		if dry {
			return "info"
		}
		return "ok"
	},
	"len64": func(s string) int64 { return int64(len(s)) },
}

// shortRev is a revision with as much of its hash as tells it from others.
func shortRev(rev string) string {
	n, hash, ok := strings.Cut(rev, "-")
	if !ok || len(hash) <= 8 {
		return rev
	}
	return n + "-" + hash[:6] + "…"
}

func indented(doc json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, doc, "", "  ") != nil {
		return string(doc)
	}
	return b.String()
}

// outcomeWords says what became of a document that was to be put back.
func outcomeWords(outcome string) string {
	switch outcome {
	case "same":
		return "the same already"
	case "left":
		return "left alone, as another content is there"
	case "missing":
		return "not in that state"
	case "deleted":
		return "deleted in that state"
	case "body_gone":
		return "its body is gone"
	case "conflict":
		return "written by others meanwhile"
	case "refused":
		return "refused by CouchDB"
	}
	return outcome
}

// way is a step to a page, for its crumbs.
type way struct{ To, Name string }

// Crumbs lead to the page.
func (d *momentData) Crumbs() []way {
	list := []way{{d.Home(), d.Name}}
	if d.DB == "" {
		return append(list, way{"", "moment"})
	}
	return append(list, way{d.to("moment", "s", d.S), "moment"}, way{"", d.DB})
}

// Crumbs lead to the page.
func (d *documentData) Crumbs() []way {
	return []way{{d.Home(), d.Name}, {d.Moment, d.DB}, {"", "document"}}
}

// Crumbs lead to the page.
func (d *attachmentData) Crumbs() []way {
	return []way{{d.Home(), d.subject.Name}, {d.to("moment", "db", d.DB), d.DB}, {d.Back, d.Doc}, {"", "attachment"}}
}

// Crumbs lead to the page.
func (d *changesData) Crumbs() []way {
	list := []way{{d.Home(), d.Name}}
	if d.DB != "" {
		list = append(list, way{d.Back, d.DB})
	}
	return append(list, way{"", "changes"})
}

// Crumbs lead to the page.
func (d *putBackData) Crumbs() []way {
	list := []way{{d.Home(), d.Name}, {d.to("moment", "db", d.Docs.DB), d.Docs.DB}}
	if d.Docs.Doc != "" {
		list = append(list, way{d.Back, "document"})
	}
	return append(list, way{"", "put back"})
}

// Since is a comparison with now, from a state.
func (d *changesData) Since(from string) string {
	return d.to("changes", "db", d.DB, "from", from, "to", "now")
}
