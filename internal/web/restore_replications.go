package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/words"
)

// replicationsFor is how long a plan looks for replications in its backup.
const replicationsFor = 2 * time.Second

// replications are those of a state, as its database _replicator has them.
type replications struct {
	Known bool // they could be read
	More  bool // there are more, or some were not looked at
	IDs   []string
}

// Words is "2 replications (to-branch, nightly)".
func (r *replications) Words() string {
	shown := r.IDs[:min(len(r.IDs), 5)]
	text := plural(len(r.IDs), "replication", "replications") + " (" + strings.Join(shown, ", ")
	if len(shown) < len(r.IDs) || r.More {
		text += ", …"
	}
	if r.More {
		text = "at least " + text
	}
	return text + ")"
}

// replicationSelector is Mango for documents of _replicator, of one database if it isn't "": whose source or target is that, by its name or at the end of a URL.
func replicationSelector(db string) string {
	var or []any
	for _, field := range []string{"source", "target"} {
		if db == "" {
			or = append(or, map[string]any{field: map[string]any{"$exists": true}})
			continue
		}
		of := map[string]any{"$regex": "(^|/)(" + regexp.QuoteMeta(db) + "|" + regexp.QuoteMeta(url.PathEscape(db)) + "|" + regexp.QuoteMeta(url.QueryEscape(db)) + ")/?$"}
		or = append(or, map[string]any{field: of}, map[string]any{field + ".url": of})
	}
	text, err := json.Marshal(map[string]any{"$or": or})
	if err != nil {
		return "" // there is nothing in it that can't be written
	}
	return string(text)
}

// replications finds those of the wizard's state that name a database, or all of them: read out of the backup, without a question to any CouchDB.
func (c *call) replications(w *wizard) *replications {
	k := w.State
	if len(k.list) == 0 || !c.who.MayRead() || streams(c.r) { // which shows no plan
		return &replications{}
	}
	b := k.list[0]
	at := states.State{Backup: b.ID}
	if k.Moment {
		at = states.State{At: k.At}
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), replicationsFor)
	defer cancel()
	list, err := c.reader.Documents(ctx, w.origin.who, b.Instance, at, contents.DocumentsQuery{DB: "_replicator", Selector: replicationSelector(w.Database), Limit: contents.DefaultLimit})
	var own *server.Error
	if errors.As(err, &own) && own.Kind == server.NotFound { // no such database
		return &replications{Known: true}
	}
	if err != nil {
		return &replications{}
	}
	if c.r.Method == http.MethodGet {
		c.log.Looked, c.log.Action, c.log.Target = true, "documents.list", contents.Target(b.Instance, "_replicator", "")
	}
	out := &replications{Known: true, More: list.Next != "" || !list.Complete}
	for _, d := range list.Documents {
		out.IDs = append(out.IDs, d.ID)
	}
	return out
}

// replicationsPoint says what the plan means for replications, by what the backup has of them.
func (c *call) replicationsPoint(w *wizard, where string) point {
	r := c.replications(w)
	of := " of the backup"
	if w.origin.Cluster != nil && len(w.State.list) > 0 {
		of = " of the backup of " + w.State.list[0].RepoName
	}
	switch {
	case !r.Known && where == "place":
		return point{"info", "info", "Which replications are about " + w.Database + " can’t be told here.", "Contents of this backup can’t be read by this server."}
	case !r.Known && where == "beside":
		return point{"info", "info", "No replication and no phone knows it.", "Which replications are about " + w.Database + " can’t be told here: contents of this backup can’t be read by this server."}
	case !r.Known && where == "new":
		return point{"info", "info", "Its replications stay off", "until you switch them on: it must not write to the real ones."}
	case !r.Known:
		return point{"warn", "warn", "Its replications go on", "as _replicator has them, as soon as CouchDB is started. How many can’t be told here: contents of this backup can’t be read by this server."}
	case len(r.IDs) == 0 && where == "place":
		return point{"ok", "ok", "No replication" + of + " is about " + w.Database + ".", "Those that were made since, and others’ that pull from it, start over too."}
	case where == "place":
		return point{"warn", "warn", words.UpperFirst(r.Words()) + of + " " + isAre(len(r.IDs)) + " about " + w.Database + ".", "They go on with the restored database, from its start."}
	case len(r.IDs) == 0 && where == "beside":
		return point{"ok", "ok", "No replication" + of + " is about " + w.Database + ".", "None is touched, and none knows the new database."}
	case len(r.IDs) == 0:
		return point{"ok", "ok", "No replication is in _replicator" + of + ".", "None begins when CouchDB is started."}
	case where == "beside":
		return point{"info", "info", words.UpperFirst(r.Words()) + of + " " + isAre(len(r.IDs)) + " about " + w.Database + ".", "They go on with the database of that name as they did, and not with the new one."}
	case where == "new":
		return point{"info", "info", words.UpperFirst(r.Words()) + of + " stay off", "until you switch them on there: it must not write to the real ones."}
	}
	return point{"warn", "warn", words.UpperFirst(r.Words()) + of + " go on", "as soon as CouchDB is started, with whom their documents in _replicator name."}
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
