package httpd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AuditQuery says which records of an audit log to read. What is empty restricts nothing.
type AuditQuery struct {
	Since, Until time.Time // from Since on, and before Until
	// Who and Target are contained, ignoring case: Who in the user, the user's id or the address.
	Who, Target string
	// Action is one, or the first word of some: "backup" is backup.create and all others of backups. Several are separated by commas.
	Action  string
	Project string
	// Before is the Next of the page before; "" begins with the newest record.
	Before string
	// Limit is how many records to return at most; 50 if it is 0.
	Limit int
}

// AuditPage is what was read, the newest record first.
type AuditPage struct {
	Records []AuditRecord
	// Next is where the page after goes on; "" at the end.
	Next string
	// Complete says that all was looked through that could have filled the page. Else Next goes on.
	Complete bool
	// Unreadable counts lines that are no record, such as one that a power cut tore.
	Unreadable int
	// Compressed says that the log goes on in files that were compressed, which aren't read.
	Compressed bool
}

// What AuditPage can't be made of.
var (
	// ErrAuditUnread is of a log that goes where nothing can be read back, such as a pipe.
	ErrAuditUnread = errors.New("the audit log is no file that can be read back")
	// ErrAuditPlace is of an AuditQuery.Before that is none, or of a file that is gone.
	ErrAuditPlace = errors.New("no such place in the audit log")
)

const (
	// auditLook bounds how many bytes one Read goes through; some 100,000 records.
	auditLook  = 32 << 20
	auditBlock = 64 << 10
	auditLine  = 1 << 20 // a longer line is no record
	// auditOld is after how many records in a row that are older than asked for nothing newer is expected before them: a clock
	// may have been wrong for a while.
	auditOld   = 1000
	auditStart = "-0" // how the place at the start of a file ends
)

// Path is the file of the log.
func (a *Audit) Path() string {
	if a == nil {
		return ""
	}
	return a.path
}

// Read reads records back, the newest first, from the end of the file, and then of those that it was renamed to when
// another was begun: NAME.1, NAME-20261130 and so on. It goes through 32 MiB at most, in blocks, so that a log of any size takes
// little memory.
func (a *Audit) Read(ctx context.Context, q AuditQuery) (*AuditPage, error) {
	if a == nil {
		return nil, ErrAuditUnread
	}
	files, compressed, err := auditFiles(a.path)
	if err != nil {
		return nil, err
	}
	q.Limit = cmp.Or(q.Limit, 50)
	q.Who, q.Target = strings.ToLower(q.Who), strings.ToLower(q.Target)
	r := auditReader{query: q, page: &AuditPage{Compressed: compressed}, left: auditLook}
	from := int64(-1)
	if q.Before != "" {
		if files, from, err = auditPlace(files, q.Before); err != nil {
			return nil, err
		}
	}
	for n, path := range files {
		if err := r.file(ctx, path, from); err != nil {
			return nil, err
		}
		if r.full && (n < len(files)-1 || !strings.HasSuffix(r.page.Next, auditStart)) {
			return r.page, nil
		}
		from = -1
	}
	r.page.Next, r.page.Complete = "", true
	return r.page, nil
}

// auditFiles are the log, and what it was renamed to, the newest first.
func auditFiles(path string) (files []string, compressed bool, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, false, ErrAuditUnread
	}
	dir, base := filepath.Split(path)
	list, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return nil, false, fmt.Errorf("read the audit log: %w", err)
	}
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	renamed := regexp.MustCompile(`^(?:` + regexp.QuoteMeta(base) + `[.-](?:[0-9][0-9._T-]*|old)|` + regexp.QuoteMeta(stem) + `[.-][0-9][0-9_T-]*` +
		regexp.QuoteMeta(ext) + `)(\.gz|\.xz|\.zst|\.bz2|\.lz4)?$`)
	type old struct {
		path string
		at   time.Time
	}
	var olds []old
	for _, e := range list {
		parts := renamed.FindStringSubmatch(e.Name())
		info, err := e.Info()
		switch {
		case parts == nil || err != nil || !info.Mode().IsRegular():
		case parts[1] != "":
			compressed = true
		default:
			olds = append(olds, old{filepath.Join(dir, e.Name()), info.ModTime()})
		}
	}
	slices.SortStableFunc(olds, func(a, b old) int { return cmp.Or(b.at.Compare(a.at), strings.Compare(a.path, b.path)) })
	files = []string{path}
	for _, o := range olds {
		files = append(files, o.path)
	}
	return files, compressed, nil
}

// auditPlace finds where a page goes on: the file by how it begins, since it may have been renamed or copied meanwhile.
func auditPlace(files []string, text string) ([]string, int64, error) {
	begins, number, _ := strings.Cut(text, "-")
	at, err := strconv.ParseInt(number, 10, 64)
	if err != nil || at < 0 || begins == "" {
		return nil, 0, ErrAuditPlace
	}
	for n, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		is, err := auditBegins(f)
		_ = f.Close()
		if err == nil && is == begins {
			return files[n:], at, nil
		}
	}
	return nil, 0, ErrAuditPlace
}

// auditBegins names a file by its first line.
func auditBegins(f io.ReaderAt) (string, error) {
	b := make([]byte, 4<<10)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line, _, _ := bytes.Cut(b[:n], []byte("\n"))
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:8]), nil
}

type auditReader struct {
	query AuditQuery
	page  *AuditPage
	left  int64 // bytes that may still be looked through
	full  bool  // the page is, or as much was looked through as may be
	old   int   // how many records in a row were older than asked for
}

// file reads one file backwards, from a place or its end, which is -1.
func (r *auditReader) file(ctx context.Context, path string, from int64) error {
	if r.old >= auditOld {
		return nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) { // it is being renamed, or was removed
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	if from < 0 || from > size {
		from = size
	}
	begins, err := auditBegins(f)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	at := from             // what is before is unread
	var rest []byte        // the end of a line whose beginning is unread
	tooLong := false       // the line at hand is; its end was given up
	newest := from == size // the next line may be one that is being written
	stop := func(place int64) {
		r.full = true
		r.page.Next = fmt.Sprintf("%s-%d", begins, place)
		r.page.Complete = len(r.page.Records) == r.query.Limit
	}
	for at > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(at, auditBlock)
		block := make([]byte, n, int(n)+len(rest))
		if _, err := f.ReadAt(block, at-n); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the audit log: %w", err)
		}
		at, r.left = at-n, r.left-n
		block = append(block, rest...)
		for cut := bytes.LastIndexByte(block, '\n'); cut >= 0; cut = bytes.LastIndexByte(block, '\n') {
			r.take(block[cut+1:], &tooLong, newest)
			newest, block = false, block[:cut]
			if r.old >= auditOld {
				return nil
			}
			if len(r.page.Records) == r.query.Limit {
				stop(at + int64(cut))
				return nil
			}
		}
		if rest = block; len(rest) > auditLine {
			rest, tooLong = nil, true
		}
		if r.left <= 0 && at > 0 {
			stop(at + int64(len(rest)))
			return nil
		}
	}
	r.take(rest, &tooLong, newest)
	if len(r.page.Records) == r.query.Limit || r.left <= 0 {
		stop(0)
	}
	return nil
}

// take adds a line to the page if it is asked for.
func (r *auditReader) take(line []byte, tooLong *bool, writing bool) {
	if *tooLong {
		*tooLong = false
		r.page.Unreadable++
		return
	}
	if line = bytes.TrimSpace(line); len(line) == 0 {
		return
	}
	if line[0] == '{' && line[len(line)-1] == '}' && r.query.Since.IsZero() && !r.query.mayFit(line) {
		return // most, and a record takes a hundred times as long to read
	}
	var one AuditRecord
	if err := json.Unmarshal(line, &one); err != nil || one.Time.IsZero() {
		if !writing {
			r.page.Unreadable++
		}
		return
	}
	r.look(&one)
}

// look adds a record to the page if it is asked for.
func (r *auditReader) look(one *AuditRecord) {
	q := &r.query
	if !q.Since.IsZero() && one.Time.Before(q.Since) {
		r.old++
		return
	}
	r.old = 0
	switch {
	case !q.Until.IsZero() && !one.Time.Before(q.Until),
		q.Project != "" && one.Project != q.Project,
		q.Action != "" && !actionOf(one.Action, q.Action),
		q.Target != "" && !strings.Contains(strings.ToLower(one.Target), q.Target),
		q.Who != "" && !strings.Contains(strings.ToLower(one.User+"\n"+one.UserID+"\n"+one.Address), q.Who):
	default:
		r.page.Records = append(r.page.Records, *one)
	}
}

// mayFit reports whether a line of JSON can be of a record that is asked for, by its bytes alone.
func (q *AuditQuery) mayFit(line []byte) bool {
	if q.Action != "" {
		fits := false
		for one := range strings.SplitSeq(q.Action, ",") {
			one = strings.TrimSpace(one)
			fits = fits || !plain(one) || bytes.Contains(line, []byte(one))
		}
		if !fits {
			return false
		}
	}
	for _, text := range []string{q.Who, q.Target} {
		if text != "" && plain(text) && isASCII(line) && !containsFold(line, text) {
			return false
		}
	}
	return true
}

// plain says that JSON has a text as it is.
func plain(text string) bool {
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' || strings.IndexByte(`"\/<>&`, b) >= 0 {
			return false
		}
	}
	return true
}

// isASCII: other letters may be those of plain texts in another case, as U+212A is a K.
func isASCII(line []byte) bool {
	for _, b := range line {
		if b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// containsFold reports whether a plain text in small letters is in a line, ignoring case.
func containsFold(line []byte, text string) bool {
	upper := text[0]
	if 'a' <= upper && upper <= 'z' {
		upper -= 'a' - 'A'
	}
	for len(line) >= len(text) {
		at := bytes.IndexByte(line, text[0])
		if upper != text[0] {
			if other := bytes.IndexByte(line[:max(at, 0)], upper); at < 0 {
				at = bytes.IndexByte(line, upper)
			} else if other >= 0 {
				at = other
			}
		}
		if at < 0 || at+len(text) > len(line) {
			return false
		}
		if strings.EqualFold(string(line[at:at+len(text)]), text) {
			return true
		}
		line = line[at+1:]
	}
	return false
}

// actionOf reports whether an action is one of those of AuditQuery.Action.
func actionOf(action, asked string) bool {
	for one := range strings.SplitSeq(asked, ",") {
		if one = strings.TrimSpace(one); action == one || one != "" && strings.HasPrefix(action, one+".") {
			return true
		}
	}
	return false
}
