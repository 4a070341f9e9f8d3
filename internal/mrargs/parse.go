package mrargs

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Query is a query string: names and values in their order, of which CouchDB takes the last one of each name.
type Query []Param

// Param is a name and its value.
type Param struct{ Name, Value string }

// ParseQuery reads a raw query string, without its question mark. It never fails: a % that no hexadecimal digits follow stays.
//
// Source: mochiweb, src/mochiweb_util.erl, parse_qs.
func ParseQuery(raw string) Query {
	var q Query
	for raw != "" {
		var p string
		if i := strings.IndexAny(raw, "&;"); i >= 0 {
			p, raw = raw[:i], raw[i+1:]
		} else {
			p, raw = raw, ""
		}
		name, value, _ := strings.Cut(p, "=")
		q = append(q, Param{unescape(name), unescape(value)})
	}
	return q
}

func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			out = append(out, ' ')
			continue
		case s[i] == '%' && i+2 < len(s):
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// Get returns the first value of a name.
func (q Query) Get(name string) (string, bool) {
	for _, p := range q {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

func (q Query) json(name string) (v ejson.Value, given bool, err error) {
	text, given := q.Get(name)
	if !given {
		return nil, false, nil
	}
	v, err = parseJSON(text)
	return v, true, err
}

func parseJSON(text string) (ejson.Value, error) {
	v, err := ejson.Parse([]byte(text))
	if err != nil {
		return nil, badRequest("invalid UTF-8 JSON")
	}
	return v, nil
}

// InPartition is the query string of what is below _partition/{partition}. It returns an *Error.
//
// Source: CouchDB 3.5, src/chttpd/src/chttpd_db.erl, handle_partition_req.
func (q Query) InPartition(partition string) (Query, error) {
	if err := checkPartition(partition); err != nil {
		return nil, err
	}
	if said, ok := q.Get("partition"); ok && said != partition {
		return nil, badRequest("Conflicting value for `partition` in query string")
	}
	out := Query{{"partition", partition}}
	seen := map[string]bool{"partition": true}
	for _, p := range q { // the first of each name stays
		if !seen[p.Name] {
			seen[p.Name] = true
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// checkPartition says what is wrong with the name of a partition.
//
// Source: CouchDB 3.5, src/couch/src/couch_partition.erl, validate_partition.
func checkPartition(p string) error {
	reason := ""
	switch {
	case p == "":
		reason = "Partition must not be empty"
	case p[0] == '_':
		reason = "Partition must not start with an underscore"
	case !utf8.ValidString(p):
		reason = "Partition must be valid UTF-8"
	case strings.Contains(p, ":"):
		reason = "Partition must not contain a colon"
	default:
		return nil
	}
	return &Error{400, "illegal_partition", reason}
}

func (a *Args) parseQuery(q Query) error {
	for _, p := range q {
		if err := a.param(p.Name, text(p.Value)); err != nil {
			return err
		}
	}
	return nil
}

func (a *Args) parseBody(o ejson.Object) error {
	for _, m := range o {
		if err := a.param(m.Name, member{m.Value}); err != nil {
			return err
		}
	}
	return nil
}

// argument is the value of an argument: text of a query string, or a member of a body.
type argument interface {
	json() (ejson.Value, error)
	bool() (bool, error)
	count() (int64, error) // an integer that isn't negative, or tooLarge
	word() string          // compared with the words that an argument may be
	string() string
}

// param reads one argument. Of those that it doesn't know, as of those that change nothing of what is answered, nothing is wrong.
func (a *Args) param(name string, v argument) (err error) {
	switch name {
	case "key", "keys", "startkey", "start_key", "endkey", "end_key":
		return a.keyParam(name, v)
	case "startkey_docid", "start_key_doc_id":
		a.Start.DocID, a.Start.DocIDSet = v.string(), true
	case "endkey_docid", "end_key_doc_id":
		a.End.DocID, a.End.DocIDSet = v.string(), true
	case "limit":
		a.Limit, err = v.count()
	case "skip":
		a.Skip, err = v.count()
	case "group_level":
		var n int64
		n, err = v.count()
		level := int(n)
		a.GroupLevel = &level
	case "reduce":
		a.Reduce, err = pointer(v)
	case "group":
		a.Group, err = pointer(v)
	case "stale", "stable", "update":
		return a.updateParam(name, v.word())
	case "descending":
		a.Descending, err = v.bool()
	case "inclusive_end":
		a.InclusiveEnd, err = v.bool()
	case "include_docs":
		a.IncludeDocs, err = v.bool()
	case "attachments": // once true, it stays
		return or(&a.Attachments, v)
	case "att_encoding_info":
		return or(&a.AttEncodingInfo, v)
	case "update_seq":
		a.UpdateSeq, err = v.bool()
	case "conflicts":
		a.conflictsSet = true
		a.Conflicts, err = v.bool()
	case "sorted":
		a.Sorted, err = v.bool()
	case "partition":
		a.Partition = v.string()
		err = checkPartition(a.Partition)
	}
	return err
}

func pointer(v argument) (*bool, error) {
	b, err := v.bool()
	return &b, err
}

func or(to *bool, v argument) error {
	b, err := v.bool()
	*to = *to || b
	return err
}

func (a *Args) keyParam(name string, v argument) error {
	key, err := v.json()
	if err != nil {
		return err
	}
	list, _ := key.(ejson.Array)
	switch {
	case name == "keys" && len(list) != 1:
		a.setKeys(key)
	case name == "keys":
		a.Start.set(list[0])
		a.End.set(list[0])
	case name == "key":
		a.Start.set(key)
		a.End.set(key)
	case name == "startkey" || name == "start_key":
		a.Start.set(key)
	default:
		a.End.set(key)
	}
	return nil
}

func (a *Args) updateParam(name, word string) error {
	switch {
	case name == "stale" && word == "ok":
		a.Stable, a.Update = true, UpdateNot
	case name == "stale" && word == "update_after":
		a.Stable, a.Update = true, UpdateLater
	case name == "stable" && (word == "true" || word == "false"):
		a.Stable = word == "true"
	case name == "update" && (word == "true" || word == "false" || word == "lazy"):
		a.Update = Update(word)
	default:
		return parseError("Invalid value for `%s`.", name)
	}
	return nil
}

// text is an argument of a query string.
type text string

func (t text) json() (ejson.Value, error) { return parseJSON(string(t)) }
func (t text) word() string               { return string(t) }
func (t text) string() string             { return string(t) }
func (t text) bool() (bool, error)        { return boolean(string(t)) }

func (t text) count() (int64, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(string(t), "-"), "+")
	if len(t)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, parseError("Invalid value for integer: %s", printedList(string(t)))
	}
	if t[0] == '-' && strings.Trim(digits, "0") != "" {
		return 0, parseError("Invalid value for positive integer: %s", printedList(string(t)))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return tooLarge, nil
	}
	return n, nil
}

func boolean(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, parseError("Invalid boolean parameter: %s", printedList(s))
}

// member is an argument in a body.
type member struct{ v ejson.Value }

func (m member) json() (ejson.Value, error) { return m.v, nil }

func (m member) word() string {
	switch v := m.v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func (m member) string() string {
	if b, ok := flat(nil, m.v); ok {
		return string(b)
	}
	return ejson.Pretty(m.v)
}

// flat appends what Erlang's list_to_binary makes of a string or a list of strings and bytes.
func flat(dst []byte, v ejson.Value) ([]byte, bool) {
	switch v := v.(type) {
	case string:
		return append(dst, v...), true
	case ejson.Array:
		for _, e := range v {
			if n, ok := e.(ejson.Number); ok {
				c, err := strconv.ParseUint(string(n), 10, 8)
				if err != nil {
					return dst, false
				}
				dst = append(dst, byte(c))
				continue
			}
			var ok bool
			if dst, ok = flat(dst, e); !ok {
				return dst, false
			}
		}
		return dst, true
	}
	return dst, false
}

func (m member) bool() (bool, error) {
	switch v := m.v.(type) {
	case bool:
		return v, nil
	case string:
		return boolean(v)
	case ejson.Number:
		if _, isFloat := v.Float(); !isFloat {
			return false, parseError("Invalid boolean parameter: %s", v)
		}
	case ejson.Array:
		return false, parseError("Invalid boolean parameter: %s", ejson.Pretty(v))
	}
	return false, &Error{500, "unknown_error", "function_clause"}
}

func (m member) count() (int64, error) {
	n, ok := m.v.(ejson.Number)
	if _, isFloat := n.Float(); ok && !isFloat {
		if n[0] == '-' {
			return 0, parseError("Invalid value for positive integer: %s", n)
		}
		i, err := strconv.ParseInt(string(n), 10, 64)
		if err != nil {
			return tooLarge, nil
		}
		return i, nil
	}
	return 0, parseError("Invalid value for integer: %s", ejson.Pretty(m.v))
}

// printedList is a list of bytes as Erlang prints it: text where all of it is printable.
func printedList(s string) string {
	list := make(ejson.Array, len(s))
	for i := range len(s) {
		list[i] = ejson.Int(int64(s[i]))
	}
	return ejson.Pretty(list)
}
