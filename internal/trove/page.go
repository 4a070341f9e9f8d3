package trove

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// pageSize is Trove's: of backups what a page has if it isn't said, of instances also
// the most that it has.
const pageSize = 20

// instancePage answers with the page that limit and marker ask for, of instances by id.
// The marker is the last id of the page before.
func (c *call) instancePage(all []*job.Instance, detail bool) (int, any, error) {
	limit, err := c.limit()
	if err != nil {
		return 0, nil, err
	}
	limit = min(limit, pageSize)
	marker := c.r.URL.Query().Get("marker")
	page := []instance{}
	for _, i := range all {
		if i.ID > marker && len(page) < limit {
			page = append(page, c.instance(i, detail))
		}
	}
	body := map[string]any{"instances": page}
	if len(page) == limit {
		body["links"] = c.next(page[limit-1].ID)
	}
	return http.StatusOK, body, nil
}

// backupPage answers with the page that limit and marker ask for, of backups from the
// one that changed last. The marker is how many come before.
func (c *call) backupPage(f server.BackupFilter) (int, any, error) {
	var err error
	if f.Limit, err = c.limit(); err != nil {
		return 0, nil, err
	}
	if marker := c.r.URL.Query().Get("marker"); marker != "" {
		if f.Offset, err = strconv.Atoi(marker); err != nil || f.Offset < 0 {
			return 0, nil, api.Invalid("The marker of a list of backups is a number of rows, not '%s'.", marker)
		}
	}
	list, _ := c.Server.Backups(c.who, f)
	page := make([]backup, len(list))
	for i, b := range list {
		page[i] = c.backup(b)
	}
	body := map[string]any{"backups": page}
	if len(page) == f.Limit && f.Offset <= math.MaxInt-f.Limit {
		body["links"] = c.next(strconv.Itoa(f.Offset + f.Limit))
	}
	return http.StatusOK, body, nil
}

func (c *call) limit() (int, error) {
	text := c.r.URL.Query().Get("limit")
	if text == "" {
		return pageSize, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 {
		return 0, api.Invalid("The limit of a list is a number from 1 on, not '%s'.", text)
	}
	return limit, nil
}

// next is the link to the page after a marker. As in Trove a full page announces one
// more, though that may turn out to be empty.
func (c *call) next(marker string) []link {
	q := c.r.URL.Query()
	q.Set("marker", marker)
	u := url.URL{Path: c.r.URL.Path, RawPath: c.r.URL.RawPath, RawQuery: q.Encode()}
	return []link{{"next", c.base(c.r) + u.String()}}
}

// isTrue reads a truth value of a query, as Python writes it.
func isTrue(text string) bool {
	switch text {
	case "True", "true", "TRUE", "1", "yes", "on":
		return true
	}
	return false
}

// stamp is a time as Trove writes it: UTC, without a zone. One that isn't known is null.
type stamp time.Time

func (s stamp) MarshalJSON() ([]byte, error) {
	t := time.Time(s)
	if t.IsZero() {
		return []byte("null"), nil
	}
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05"`)), nil
}

// gigabytes is a size with two digits behind the point, rounded up so that nothing looks
// smaller than it is; nil if it isn't known.
func gigabytes(bytes int64) *float64 {
	if bytes <= 0 {
		return nil
	}
	gb := math.Ceil(float64(bytes)/(1<<30)*100) / 100
	return &gb
}
