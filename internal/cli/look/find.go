package look

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/serve"
)

type findOptions struct {
	open.Chosen
	fields []string
	limit  int64
	skip   int64
}

func newFind(env *core.Env, g *core.Global) *cobra.Command {
	o := &findOptions{}
	c := &cobra.Command{
		Use:   "find DB SELECTOR",
		Short: "Find documents by a Mango selector in a backup or moment, without restoring it",
		Long: `Print the documents that a Mango selector finds, one a line, as the newest moment has them, or that of --at, --at-seq or
--before-change, or a backup: '{"type": "invoice", "total": {"$gt": 1000}}'. Selectors are those of CouchDB's _find.

All documents are looked at, in the order of their ids, but for those that a condition on _id leaves out.`,
		Args: core.Arguments(2, 2, "a DB and a SELECTOR"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			s.FromCache = true // every frame is held against its hash
			return runFind(ctx, env, s, o, args[0], args[1])
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose documents they are (default: the only one)")
	o.When.Flags(f)
	o.ClusterFlag(f)
	f.StringVar(&o.Backup, "backup", "", "in this backup: its `ID`, name, or \"latest\"")
	f.StringSliceVar(&o.fields, "fields", nil, "print these `FIELDS` of each document instead of all, such as _id,customer.name")
	f.Int64Var(&o.limit, "limit", 0, "print at most so many `DOCUMENTS`")
	f.Int64Var(&o.skip, "skip", 0, "leave out the first `DOCUMENTS`")
	return c
}

// body is what _find would be sent.
func (o *findOptions) body(selector string) (ejson.Object, error) {
	v, err := ejson.Parse([]byte(selector))
	if err != nil {
		return nil, core.Usage("the selector: %v", err)
	}
	limit := int64(mrargs.NoLimit)
	if o.limit > 0 {
		limit = o.limit
	}
	body := ejson.Object{{Name: "selector", Value: v}, {Name: "limit", Value: ejson.Int(limit)}, {Name: "skip", Value: ejson.Int(o.skip)}, {Name: "conflicts", Value: true}}
	if len(o.fields) > 0 {
		fields := ejson.Array{}
		for _, f := range o.fields {
			fields = append(fields, f)
		}
		body = append(body, ejson.Member{Name: "fields", Value: fields})
	}
	return body, nil
}

func runFind(ctx context.Context, env *core.Env, s *core.Settings, o *findOptions, db, selector string) error {
	body, err := o.body(selector)
	if err != nil {
		return err
	}
	query, err := mango.ParseOptions(body)
	if err != nil {
		return asUsage(err)
	}
	node, done, err := o.Node(ctx, env, s)
	if err != nil {
		return err
	}
	defer done()
	d, err := open.Database(node, db)
	if err != nil {
		return err
	}
	n := 0
	sep := "{\n  \"documents\": [\n    "
	_, err = serve.Find(ctx, ctx, d, query, func(v ejson.Value) error {
		n++
		if !env.JSON {
			_, err := fmt.Fprintf(env.Stdout, "%s\n", core.Clean(ejson.String(v)))
			return err
		}
		_, err := fmt.Fprintf(env.Stdout, "%s%s", sep, ejson.Append(nil, v))
		sep = ",\n    "
		return err
	})
	if err != nil {
		return asUsage(err)
	}
	if !env.JSON {
		fmt.Fprintln(env.Stderr, core.Count(n, "document"))
		return nil
	}
	if n == 0 {
		fmt.Fprint(env.Stdout, "{\n  \"documents\": [")
	}
	storage, err := json.Marshal(env.TrafficJSON())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "\n  ],\n  \"count\": %d,\n  \"storage\": %s\n}\n", n, storage)
	return err
}

// asUsage says of a selector that can't be used that the command was used wrongly.
func asUsage(err error) error {
	var bad *mango.Error
	if errors.As(err, &bad) {
		return core.Usage("the selector: %s", bad.Reason)
	}
	return err
}
