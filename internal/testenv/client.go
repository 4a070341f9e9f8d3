package testenv

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client talks JSON to a CouchDB. It is a small one for tests: the product's own
// client is not used to check the product.
type Client struct {
	URL             string // "http://127.0.0.1:5984"
	Admin, Password string
	HTTP            *http.Client // http.DefaultClient if nil
}

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, strings.TrimSpace(e.Body))
}

// Status returns the status of a StatusError, or 0.
func Status(err error) int {
	var s *StatusError
	if errors.As(err, &s) {
		return s.Status
	}
	return 0
}

// Do sends a request and decodes the answer into the value that into points to,
// unless that is nil; a *[]byte gets the bytes. A body is sent as JSON; []byte and
// json.RawMessage go as they are. path starts with "/" and is escaped already.
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	var send io.Reader
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		send, contentType = bytes.NewReader(b), "application/octet-stream"
	default:
		p, err := json.Marshal(b)
		if err != nil {
			return err
		}
		send = bytes.NewReader(p)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, send)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(c.Admin, c.Password)
	resp, err := cmp.Or(c.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return &StatusError{method, path, resp.StatusCode, string(answer)}
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = answer
		return nil
	default:
		return json.Unmarshal(answer, into)
	}
}

// Get decodes the answer to a GET into the value that into points to.
func (c *Client) Get(path string, into any) error {
	return c.Do(context.Background(), http.MethodGet, path, nil, into)
}

// Put sends body and decodes the answer into what into points to, if not nil.
func (c *Client) Put(path string, body, into any) error {
	return c.Do(context.Background(), http.MethodPut, path, body, into)
}

// Post sends body and decodes the answer into what into points to, if not nil.
func (c *Client) Post(path string, body, into any) error {
	return c.Do(context.Background(), http.MethodPost, path, body, into)
}

// Delete sends a DELETE. That of a database returns when the node knows it no more: its
// answer comes before mem3_shards:changes_callback hears of it, and a database made anew
// meanwhile is refused with 412.
func (c *Client) Delete(path string) error {
	if err := c.Do(context.Background(), http.MethodDelete, path, nil, nil); err != nil || strings.ContainsAny(path[1:], "/?") {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := c.Get(path, nil)
		switch {
		case Status(err) == http.StatusNotFound:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("DELETE %s: the node still knows it after a minute, and answers %v", path, err)
		}
	}
}

// DBPath is the escaped path of a database or, with more parts, of a document or
// attachment in it.
func DBPath(db string, parts ...string) string {
	path := "/" + escape(db)
	for _, p := range parts {
		path += "/" + escape(p)
	}
	return path
}

// escape also escapes "+", which CouchDB reads as a space.
func escape(s string) string { return strings.ReplaceAll(url.PathEscape(s), "+", "%2B") }

// NodeShards returns the names of those shards of a database that this node has, as in
// "shards/00000000-7fffffff/db.1767225600".
func (c *Client) NodeShards(db string) ([]string, error) {
	var m struct {
		Suffix []rune              `json:"shard_suffix"`
		ByNode map[string][]string `json:"by_node"`
	}
	err := c.Get("/_node/_local/_dbs/"+escape(db), &m)
	if Status(err) == http.StatusConflict {
		// The first such request makes the node's own _users, which another node may do at the same time.
		err = c.Get("/_node/_local/_dbs/"+escape(db), &m)
	}
	if err != nil {
		return nil, err
	}
	var node struct{ Name string }
	if err := c.Get("/_node/_local", &node); err != nil {
		return nil, err
	}
	var names []string
	for _, r := range m.ByNode[node.Name] {
		names = append(names, "shards/"+r+"/"+db+string(m.Suffix))
	}
	return names, nil
}

// Compact compacts all shards of a database, and waits until it is done with those that this node has.
// The server only notes what it is asked for: a shard that is not being compacted may be one that
// isn't yet.
func (c *Client) Compact(db string) error {
	names, err := c.NodeShards(db)
	if err != nil {
		return err
	}
	before := make([]shardInfo, len(names))
	for i, name := range names {
		if err := c.Get("/_node/_local/"+escape(name), &before[i]); err != nil {
			return err
		}
	}
	if err := c.Post(DBPath(db, "_compact"), struct{}{}, nil); err != nil {
		return err
	}
	began := time.Now()
	for i, name := range names {
		seen := false
		for {
			var now shardInfo
			if err := c.Get("/_node/_local/"+escape(name), &now); err != nil {
				return err
			}
			seen = seen || now.Running
			if !now.Running && (seen || now.CompactedSeq != before[i].CompactedSeq || before[i].told() && time.Since(began) > time.Second) {
				break
			}
			if time.Since(began) > 5*time.Minute {
				return fmt.Errorf("compaction of %s: %s is not done after five minutes", db, name)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// shardInfo is what a node says of one of its shards.
type shardInfo struct {
	Running      bool   `json:"compact_running"`
	UpdateSeq    uint64 `json:"update_seq"`
	CompactedSeq uint64 `json:"compacted_seq"`
}

// told says that a compaction changes nothing of it: nothing was written since the last one.
func (i shardInfo) told() bool { return i.CompactedSeq == i.UpdateSeq }
