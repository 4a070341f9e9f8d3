package trove

import (
	"net/http"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// backup is one as Trove shows it. All keys are always there: for one that isn't, clients
// ask again.
type backup struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Description *string         `json:"description"`
	InstanceID  string          `json:"instance_id"`
	LocationRef *string         `json:"locationRef"`
	Size        *float64        `json:"size"` // GB
	Status      string          `json:"status"`
	ParentID    *string         `json:"parent_id"`
	Created     stamp           `json:"created"`
	Updated     stamp           `json:"updated"`
	Datastore   backupDatastore `json:"datastore"`
	ProjectID   string          `json:"project_id"`
	// Fault is why it failed, or could not be deleted: Trove has no field for that, and
	// the clients show what there is.
	Fault string `json:"fault,omitempty"`
}

type backupDatastore struct {
	Type      string `json:"type"`
	Version   string `json:"version"`
	VersionID string `json:"version_id"`
}

func (c *call) backup(b *job.Backup) backup {
	return backup{
		ID: b.ID, Name: b.Name, Description: orNull(b.Description), InstanceID: b.Instance, LocationRef: orNull(b.Location()),
		Size: gigabytes(b.Size), Status: string(b.Status), ParentID: orNull(b.Parent), Created: stamp(b.Created), Updated: stamp(b.Updated),
		Datastore: backupDatastore{c.couchdb().Name, versionName(b.CouchDBVersion), c.Server.VersionID(b.CouchDBVersion)}, ProjectID: b.Project,
		Fault: b.Fault,
	}
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func (c *call) listBackups() (int, any, error) {
	q := c.r.URL.Query()
	f := server.BackupFilter{Instance: strings.ToLower(q.Get("instance_id")), All: isTrue(q.Get("all_projects")), Project: q.Get("project_id")}
	if !f.All && f.Project == c.who.Project {
		f.Project = ""
	}
	if f.Project != "" {
		f.All = true
	}
	if f.All && !c.who.May(access.Admin) {
		return 0, nil, api.Refuse(http.StatusForbidden, "Only administrators see backups of other projects.")
	}
	if text := q.Get("datastore"); text != "" {
		d, err := c.findDatastore(text)
		if err != nil {
			return 0, nil, err
		}
		f.None = d.ID != c.couchdb().ID
	}
	return c.backupPage(f)
}

func (c *call) listInstanceBackups() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	f := server.BackupFilter{Instance: id}
	// Backups outlive their instance.
	if _, err := c.Server.Instance(c.r.Context(), c.who, id); err != nil {
		f.Limit = 1
		if page, _ := c.Server.Backups(c.who, f); len(page) == 0 {
			return 0, nil, err
		}
	}
	return c.backupPage(f)
}

func (c *call) showBackup() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	b, err := c.Server.Backup(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"backup": c.backup(b)}, nil
}

func (c *call) createBackup() (int, any, error) {
	o, err := c.body("backup")
	if err != nil {
		return 0, nil, err
	}
	name, description := o.label("name", true), o.label("description", false)
	from := o.object("restore_from")
	var b *job.Backup
	if from.fields != nil {
		b, err = c.adoptBackup(from, name, description)
	} else {
		n := server.NewBackup{Name: name, Description: description, Instance: o.id("instance", true), Parent: o.id("parent_id", false),
			Incremental: o.flag("incremental"), Container: o.container("swift_container")}
		if err := o.err(); err != nil {
			return 0, nil, err
		}
		b, err = c.Server.CreateBackup(c.r.Context(), c.who, n)
	}
	if err != nil {
		return 0, nil, err
	}
	c.log.Target = b.ID
	return http.StatusAccepted, map[string]any{"backup": c.backup(b)}, nil
}

// adoptBackup takes in a backup that is stored and not in the catalog. Its size is read
// from it, whatever the request says.
func (c *call) adoptBackup(from object, name, description string) (*job.Backup, error) {
	a := server.Adoption{Name: name, Description: description}
	v, _ := from.get("remote_location")
	a.Location, _ = v.(string)
	if a.Location == "" || len(a.Location) > 4096 {
		from.wrong("remote_location", "must be the URL of a backup, of at most 4096 bytes")
	}
	version := from.text("local_datastore_version_id")
	from.amount("size")
	if err := from.err(); err != nil {
		return nil, err
	}
	if _, ok := c.findVersion(version); version != "" && !ok {
		return nil, api.Invalid("Datastore version '%s' cannot be found.", version)
	}
	return c.Server.AdoptBackup(c.r.Context(), c.who, a)
}

// container returns the name of a container, or "" if there is none.
func (o object) container(key string) string {
	s := o.text(key)
	if _, ok := o.get(key); ok && (s == "" || len(s) > 256 || strings.Contains(s, "/")) {
		o.wrong(key, "must be the name of a container, of 1 to 256 bytes without a slash")
	}
	return s
}

func (c *call) deleteBackup() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, c.Server.DeleteBackup(c.r.Context(), c.who, id)
}
