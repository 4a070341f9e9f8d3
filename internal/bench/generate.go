package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/slipcover/slipcover/internal/couchgen"
)

// generateCommand, as the first argument, makes this program generate data and
// end: what it needs of memory would show in every program started after.
const generateCommand = "generate-data"

// made is what generating did.
type made struct {
	Files int   `json:"files"` // made, or grown
	Bytes int64 `json:"bytes"`
	// Missing says why there is none, if so: it takes what isn't installed.
	Missing string `json:"missing,omitempty"`
}

// generate is the process that makes data: mixed DIR BYTES, small DIR FILES, prose
// DIR DOCUMENTS, or grow DIR SEED.
func generate(args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New(generateCommand + " takes what, where and a number")
	}
	n, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	var m made
	switch args[0] {
	case "mixed":
		m, err = makeMixed(args[1], n)
	case "small":
		var d *couchgen.Dir
		if d, err = couchgen.DataDir(args[1], couchgen.PerUser(int(n))); err == nil {
			m = made{Files: d.Files, Bytes: d.Bytes}
		}
	case "prose":
		m, err = makeProse(args[1], int(n))
	case "grow":
		m.Files, m.Bytes, err = couchgen.Grow(args[1], 0.01, couchgen.GrowOptions{Seed: uint64(n)})
	default:
		err = fmt.Errorf("%s %s", generateCommand, args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m)
}

// makeMixed makes a database of one large shard, and one of 8 with attachments.
func makeMixed(dir string, bytes int64) (made, error) {
	large := bytes * 6 / 10
	one := couchgen.OneShard(large)
	one.Name = func(int) string { return "large" }
	first, err := couchgen.DataDir(dir, one)
	if err != nil {
		return made{}, err
	}
	for _, name := range []string{"_dbs.couch", "_nodes.couch"} { // the second database's call makes them
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return made{}, err
		}
	}
	second, err := couchgen.DataDir(dir, couchgen.DirOptions{
		Seed: 1, Q: 8, Name: func(int) string { return "files" }, BytesPerDB: bytes*102/100 - large,
		UpdateFraction: 0.05, DeleteFraction: 0.01, AttachmentEvery: 50, LocalDocs: 4,
	})
	if err != nil {
		return made{}, err
	}
	return made{Files: second.Files, Bytes: second.Bytes}, addMap(filepath.Join(dir, "_dbs.couch"), &first.Databases[0])
}

// addMap adds a database to a node's shard map.
func addMap(path string, db *couchgen.Database) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	g, err := couchgen.Reopen(f, couchgen.Options{})
	if err != nil {
		return err
	}
	var suffix, changelog, ranges []any
	for _, c := range []byte(db.Suffix) {
		suffix = append(suffix, int(c))
	}
	byRange := couchgen.Object{}
	for _, s := range db.Shards {
		changelog = append(changelog, []any{"add", s.Range(), couchgen.DefaultNode})
		ranges = append(ranges, s.Range())
		byRange = append(byRange, couchgen.Member{Key: s.Range(), Value: []any{couchgen.DefaultNode}})
	}
	_, err = g.Put(couchgen.Doc{ID: db.Name, Body: couchgen.Object{
		{Key: "shard_suffix", Value: suffix},
		{Key: "changelog", Value: changelog},
		{Key: "by_node", Value: couchgen.Object{{Key: couchgen.DefaultNode, Value: ranges}}},
		{Key: "by_range", Value: byRange},
		{Key: "props", Value: couchgen.Object{}},
	}})
	if err != nil {
		return err
	}
	return g.Commit()
}

// runGenerate runs generate in a process of its own.
func runGenerate(ctx context.Context, what, dir string, n int64) (made, error) {
	self, err := os.Executable()
	if err != nil {
		return made{}, err
	}
	c := exec.CommandContext(ctx, self, generateCommand, what, dir, strconv.FormatInt(n, 10))
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	var m made
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		return m, fmt.Errorf("generate %s: %w: %s", what, err, stderr.Bytes())
	}
	return m, nil
}
