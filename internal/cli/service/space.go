package service

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newSpace(env *core.Env, g *core.Global) *cobra.Command {
	project, db, backup := "", "", ""
	c := &cobra.Command{
		Use:   "space [INSTANCE]",
		Short: "Show how much room the backups of a server's instances take, and what retention frees next",
		Long: `Show how much room the backups of a server's instances take, what was added within a week, and what retention frees next. The
server's catalog says so: nothing is read of the backups. Copies in further repositories, and what is shipped between
backups, are not in it. Below it is how much room is left in repositories, as agents tell it of folders and SFTP, and when they are
full if it goes on as in the last weeks.

With an INSTANCE, by its name or id, and --db, show where the bytes of one of its databases are: live documents, their attachments,
conflicts, tombstones, trees, what a compaction frees, and indexes. The server reads that out of the newest backup or moment, or the
one of --backup, and needs a key for it, or an agent that has one; CouchDB isn't asked. After 25 seconds it says what it has seen.`,
		Args: core.Arguments(0, 1, "at most one INSTANCE"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			switch {
			case len(args) == 1 && db == "":
				return core.Usage("which database of %s? Say it by --db", args[0])
			case len(args) == 0 && (db != "" || backup != ""):
				return core.Usage("--db and --backup are about one INSTANCE: name it")
			case len(args) == 1:
				id, err := c.findInstance(ctx, args[0], project)
				if err != nil {
					return err
				}
				q := url.Values{"db": {db}}
				if backup != "" {
					q.Set("backup", backup)
				}
				if project != "" {
					q.Set("project", project)
				}
				return show(ctx, env, c, "instances/"+id+"/space?"+q.Encode(), func(x *databaseSpaceJSON) error { return x.print(env) })
			}
			return show(ctx, env, c, inProject("space", project), func(s *spaceJSON) error { return s.print(env) })
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose backups to count (default: all that the token may see)")
	c.Flags().StringVar(&db, "db", "", "`NAME` of the database to look into")
	c.Flags().StringVar(&backup, "backup", "", "`ID` of the backup to look into, or latest (default: the newest backup or moment)")
	serviceFlags(c.Flags())
	return c
}

type databaseSpaceJSON struct {
	State            time.Time `json:"state"`
	FileBytes        int64     `json:"file_bytes"`
	DocumentBytes    int64     `json:"document_bytes"`
	AttachmentBytes  int64     `json:"attachment_bytes"`
	ConflictBytes    int64     `json:"conflict_bytes"`
	TombstoneBytes   int64     `json:"tombstone_bytes"`
	TreeBytes        int64     `json:"tree_bytes"`
	OldRevisionBytes int64     `json:"old_revision_bytes"`
	OldOtherBytes    int64     `json:"old_other_bytes"`
	UnreadBytes      int64     `json:"unread_bytes"`
	Complete         bool      `json:"complete"`
	Documents        uint64    `json:"documents"`
	Looked           uint64    `json:"looked"`
	Indexes          []struct {
		Signature string   `json:"signature"`
		Designs   []string `json:"designs"`
		FileBytes int64    `json:"file_bytes"`
		LiveBytes int64    `json:"live_bytes"`
	} `json:"indexes"`
	NoIndexes     bool   `json:"no_indexes"`
	MissingShards int    `json:"missing_shards"`
	Problem       string `json:"problem"`
}

func (x *databaseSpaceJSON) print(env *core.Env) error {
	var rows [][]string
	row := func(what string, bytes int64) { rows = append(rows, []string{what, core.Size(bytes)}) }
	row("live documents", x.DocumentBytes)
	row("attachments", x.AttachmentBytes)
	row("conflicts", x.ConflictBytes)
	row("tombstones", x.TombstoneBytes)
	row("trees", x.TreeBytes)
	if x.UnreadBytes > 0 {
		row("not looked at", x.UnreadBytes)
	}
	row("superseded revisions", x.OldRevisionBytes)
	row("superseded trees, and the rest", x.OldOtherBytes)
	for _, i := range x.Indexes {
		of := "of no design document as it is now"
		if len(i.Designs) > 0 {
			of = strings.Join(i.Designs, ", ")
		}
		row("index "+i.Signature[:min(8, len(i.Signature))]+", "+of, i.FileBytes)
	}
	if err := core.Table(env.Stdout, []string{"OF WHAT", "SIZE"}, rows); err != nil {
		return err
	}
	var notes []string
	if !x.Complete {
		notes = append(notes, fmt.Sprintf("looked at %d of %d documents before the time was over", x.Looked, x.Documents))
	}
	if x.MissingShards > 0 {
		notes = append(notes, core.Count(x.MissingShards, "shard")+" missing on the node")
	}
	if x.Problem != "" {
		notes = append(notes, x.Problem)
	}
	if x.NoIndexes {
		notes = append(notes, "no indexes in it")
	}
	end := ""
	if len(notes) > 0 {
		end = " (" + strings.Join(notes, "; ") + ")"
	}
	old := x.OldRevisionBytes + x.OldOtherBytes
	_, err := fmt.Fprintf(env.Stdout, "%s in the files of the state of %s UTC; a compaction frees %s or somewhat more, and leaves %s%s\n", core.Size(x.FileBytes), core.When(x.State), core.Size(old), core.Size(x.FileBytes-old), end)
	return err
}

type spaceJSON struct {
	Space struct {
		StoredBytes int64 `json:"stored_bytes"`
		SizeBytes   int64 `json:"size_bytes"`
		AddedBytes  int64 `json:"added_7d_bytes"`
		Backups     int   `json:"backups"`
		Goes        int   `json:"goes"`
		FreesBytes  int64 `json:"frees_bytes"`
		Instances   []struct {
			Name        string `json:"name"`
			StoredBytes int64  `json:"stored_bytes"`
			SizeBytes   int64  `json:"size_bytes"`
			AddedBytes  int64  `json:"added_7d_bytes"`
			Backups     int    `json:"backups"`
		} `json:"instances"`
		Rooms []struct {
			URL        string    `json:"url"`
			Agents     []string  `json:"agents"`
			FreeBytes  int64     `json:"free_bytes"`
			TotalBytes int64     `json:"total_bytes"`
			GrowsBytes int64     `json:"grows_bytes_per_day"`
			Full       time.Time `json:"full"`
		} `json:"rooms"`
	} `json:"space"`
}

func (s *spaceJSON) print(env *core.Env) error {
	var rows [][]string
	for _, i := range s.Space.Instances {
		rows = append(rows, []string{i.Name, fmt.Sprint(i.Backups), core.Size(i.StoredBytes), core.Size(i.SizeBytes), core.Size(i.AddedBytes)})
	}
	if err := core.Table(env.Stdout, []string{"INSTANCE", "BACKUPS", "STORED", "AS RESTORED", "ADDED IN 7 DAYS"}, rows); err != nil {
		return err
	}
	for _, r := range s.Space.Rooms {
		full := ""
		if !r.Full.IsZero() {
			full = fmt.Sprintf("; %s a day go, so it is full about %s", core.Size(r.GrowsBytes), r.Full.UTC().Format(time.DateOnly))
		}
		if _, err := fmt.Fprintf(env.Stdout, "%s (%s): %s of %s left%s\n", core.Clean(r.URL), core.Clean(strings.Join(r.Agents, ", ")), core.Size(r.FreeBytes), core.Size(r.TotalBytes), full); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(env.Stdout, "%s stored by %s; retention deletes %s next, about %s\n", core.Size(s.Space.StoredBytes), core.Count(s.Space.Backups, "backup"),
		core.Count(s.Space.Goes, "backup"), core.Size(s.Space.FreesBytes))
	return err
}
