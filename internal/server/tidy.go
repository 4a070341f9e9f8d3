package server

import (
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
)

// What an agent says is stored, shown and counted, so it is brought into bounds first:
// an agent may be anybody who stole one's credentials.
const (
	maxSentence = 1000 // bytes
	maxSaying   = 300  // bytes of a line in a log
	maxSaid     = 100  // that a report says
	maxPlace    = 4096 // bytes of a URL
	maxName     = 255  // bytes
	maxNotes    = 50   // notes of a backup
	maxPins     = 1000 // of an instance
	maxSeen     = 1000 // instances, and jobs, of an agent
	maxRooms    = 20   // of an agent
)

func tidyHello(h *job.Hello) {
	tidy(maxName, &h.Session, &h.Version, &h.Host, &h.Address)
	tidyRepository(&h.Repository)
	if _, err := age.ParseX25519Recipient(h.Recipient); err != nil {
		h.Recipient = ""
	}
	h.FreeBytes, h.Start = max(h.FreeBytes, 0), max(h.Start, 0)
	h.Instances, h.Running = h.Instances[:min(len(h.Instances), maxSeen)], h.Running[:min(len(h.Running), maxSeen)]
	for i := range h.Instances {
		seen := &h.Instances[i]
		tidy(maxName, &seen.Instance)
		tidyVersion(&seen.Version)
		tidyShipping(seen.Ship)
		tidyMember(seen.Member)
		seen.UsedBytes, seen.Databases = max(seen.UsedBytes, 0), max(seen.Databases, 0)
	}
	for i := range h.Running {
		tidy(maxName, &h.Running[i])
	}
	h.Rooms = slices.DeleteFunc(h.Rooms[:min(len(h.Rooms), maxRooms)], func(r job.Room) bool {
		return r.URL == "" || r.TotalBytes <= 0 || r.FreeBytes < 0 || r.FreeBytes > r.TotalBytes
	})
	for i := range h.Rooms {
		tidy(maxPlace, &h.Rooms[i].URL)
		tidy(maxName, &h.Rooms[i].Repository)
	}
}

// tidyMember leaves nothing of what a record of a backup couldn't say.
func tidyMember(m *job.Member) {
	if m == nil {
		return
	}
	tidy(maxName, &m.Node, &m.ServerUUID, &m.MapUUID)
	if manifest.CheckCluster(m.Cluster, m.Nodes) != nil {
		m.Cluster, m.Nodes = "", nil
	}
	for i := range m.Nodes {
		tidy(maxName, &m.Nodes[i])
	}
	m.AgeSeconds = min(max(m.AgeSeconds, 0), maxLag)
}

func tidyReport(r *job.Report) {
	tidy(maxSentence, &r.Fault)
	tidy(maxPlace, &r.URL)
	tidyVersion(&r.CouchDBVersion)
	tidyNumbers(&r.At.Files, &r.At.FilesDone, &r.At.Bytes, &r.At.BytesDone, &r.At.Stored)
	if r.Repository != nil {
		tidyRepository(r.Repository)
	}
	if v := r.Result; v != nil {
		tidy(maxName, &v.RepoID, &v.Type, &v.Checksum, &v.Node)
		tidy(maxPlace, &v.LocationRef)
		tidyNumbers(&v.Size, &v.Stored, &v.Order)
		v.Databases, v.Damage, v.Uncopied = max(v.Databases, 0), max(v.Damage, 0), max(v.Uncopied, 0)
		v.Notes = v.Notes[:min(len(v.Notes), maxNotes)]
		for i := range v.Notes {
			tidy(maxSentence, &v.Notes[i])
		}
	}
	tidyDocuments(r.Documents)
	r.Said = r.Said[max(len(r.Said)-maxSaid, 0):]
	for i := range r.Said {
		tidy(maxSaying, &r.Said[i].Text)
	}
	tidyPins(r)
	r.Problems = r.Problems[:min(len(r.Problems), maxOfAPart)]
	for i := range r.Problems {
		tidy(maxSentence, &r.Problems[i])
	}
	if p := r.Proof; p != nil {
		tidy(maxSentence, &p.Problem)
		p.Databases, p.Took = max(p.Databases, 0), max(p.Took, 0)
	}
}

// tidyPins brings reasons into bounds, and leaves nothing of more pins than agents tell.
func tidyPins(r *job.Report) {
	if r.Pin != nil {
		tidy(maxSentence, &r.Pin.Reason)
	}
	if len(r.Pins) > maxPins {
		r.Pins = nil
	}
	for id, pin := range r.Pins {
		tidy(maxSentence, &pin.Reason)
		r.Pins[id] = pin
	}
}

func tidyRepository(r *job.Repository) {
	tidy(maxPlace, &r.URL)
	tidy(maxName, &r.ID)
	r.Storage, r.Recipients = "", nil // which only servers say
}

func tidyNumbers(numbers ...*int64) {
	for _, n := range numbers {
		*n = min(max(*n, 0), math.MaxInt64/2) // so that they can be rounded up
	}
}

// tidyVersion leaves nothing of what can't be the version of a CouchDB.
func tidyVersion(version *string) {
	if len(*version) > 40 || strings.ContainsFunc(*version, func(r rune) bool {
		return r >= utf8.RuneSelf || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".+-_", r)
	}) {
		*version = ""
	}
}

// tidy makes texts one line each of what can be printed, of at most so many bytes.
func tidy(most int, texts ...*string) {
	for _, text := range texts {
		t := *text
		if len(t) > most {
			end := most - len("…")
			for !utf8.RuneStart(t[end]) {
				end--
			}
			t = t[:end] + "…"
		}
		*text = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return ' '
			}
			return r
		}, t)
	}
}

const (
	maxDocuments = 100 // that a report names
	maxPaths     = 200 // of one
	maxDocID     = 4096
)

func tidyDocuments(d *job.DocumentsDone) {
	if d == nil {
		return
	}
	tidy(maxSentence, &d.State)
	d.Purged, d.More = max(d.Purged, 0), max(d.More, 0)
	d.Documents = d.Documents[:min(len(d.Documents), maxDocuments)]
	if len(d.Counts) > maxDocuments {
		d.Counts = nil
	}
	for i := range d.Documents {
		x := &d.Documents[i]
		tidy(maxDocID, &x.ID)
		tidy(maxName, &x.Outcome, &x.From, &x.Was, &x.Rev)
		tidy(maxSentence, &x.Reason)
		x.Paths = x.Paths[:min(len(x.Paths), maxPaths)]
		for k := range x.Paths {
			tidy(maxSentence, &x.Paths[k])
		}
	}
}
