package trove

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/server"
)

type datastore struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	DefaultVersion string    `json:"default_version,omitempty"` // id
	Versions       []version `json:"versions"`
	Links          []link    `json:"links"`
}

type version struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	Datastore string `json:"datastore"` // id
	Links     []link `json:"links"`
}

type flavor struct {
	ID        int    `json:"id"`
	StrID     string `json:"str_id"`
	Name      string `json:"name"`
	RAM       int    `json:"ram"` // MB
	VCPUs     int    `json:"vcpus"`
	Disk      int    `json:"disk"` // GB
	Ephemeral int    `json:"ephemeral"`
	Links     []link `json:"links"`
}

// datastores returns all, the first of which is that of our instances. Finding out its
// versions looks through all instances, so it is done once for a request.
func (c *call) datastores() []server.Datastore {
	if c.kept == nil {
		c.kept = c.Server.Datastores()
	}
	return c.kept
}

// couchdb returns the datastore of our instances and backups.
func (c *call) couchdb() server.Datastore { return c.datastores()[0] }

// versionName is the name of the datastore version of a CouchDB version: 3.5 of 3.5.1.
func versionName(couchdb string) string {
	parts := strings.SplitN(couchdb, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

func (c *call) version(d server.Datastore, v server.Version) version {
	return version{ID: v.ID, Name: v.Name, Version: v.Number, Datastore: d.ID, Links: c.links("datastores", d.ID, "versions", v.ID)}
}

func (c *call) versionList(d server.Datastore) []version {
	list := make([]version, len(d.Versions))
	for i, v := range d.Versions {
		list[i] = c.version(d, v)
	}
	return list
}

func (c *call) datastore(d server.Datastore) datastore {
	return datastore{ID: d.ID, Name: d.Name, DefaultVersion: d.Default, Versions: c.versionList(d), Links: c.links("datastores", d.ID)}
}

// findDatastore returns the datastore of an id or name.
func (c *call) findDatastore(text string) (server.Datastore, error) {
	for _, d := range c.datastores() {
		if text == d.ID || text == d.Name {
			return d, nil
		}
	}
	return server.Datastore{}, api.Refuse(http.StatusNotFound, fmt.Sprintf("Datastore '%s' cannot be found.", text))
}

// findVersion returns the version of CouchDB of an id or name.
func (c *call) findVersion(text string) (server.Version, bool) {
	return versionOf(c.couchdb(), text)
}

func versionOf(d server.Datastore, text string) (server.Version, bool) {
	for _, v := range d.Versions {
		if text == v.ID || text == v.Name {
			return v, true
		}
	}
	return server.Version{}, false
}

func (c *call) listDatastores() (int, any, error) {
	var list []datastore
	for _, d := range c.datastores() {
		list = append(list, c.datastore(d))
	}
	return http.StatusOK, map[string]any{"datastores": list}, nil
}

func (c *call) showDatastore() (int, any, error) {
	d, err := c.findDatastore(c.r.PathValue("datastore"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"datastore": c.datastore(d)}, nil
}

func (c *call) showVersionsOrVersion() (int, any, error) {
	a, b := c.r.PathValue("a"), c.r.PathValue("b")
	switch {
	case b == "versions":
		d, err := c.findDatastore(a)
		if err != nil {
			return 0, nil, err
		}
		return http.StatusOK, map[string]any{"versions": c.versionList(d)}, nil
	case a == "versions":
		return c.oneVersion(c.couchdb(), b)
	}
	return 0, nil, notFound
}

func (c *call) showVersion() (int, any, error) {
	d, err := c.findDatastore(c.r.PathValue("datastore"))
	if err != nil {
		return 0, nil, err
	}
	return c.oneVersion(d, c.r.PathValue("version"))
}

func (c *call) oneVersion(d server.Datastore, text string) (int, any, error) {
	v, ok := versionOf(d, text)
	if !ok {
		return 0, nil, api.Refuse(http.StatusNotFound, fmt.Sprintf("Datastore version '%s' cannot be found.", text))
	}
	return http.StatusOK, map[string]any{"version": c.version(d, v)}, nil
}

// listVersionFlavors lists all flavors: each version runs with each of them.
func (c *call) listVersionFlavors() (int, any, error) {
	if status, body, err := c.showVersion(); err != nil {
		return status, body, err
	}
	return c.listFlavors()
}

func (c *call) flavor(f server.Flavor) flavor {
	id := strconv.Itoa(f.ID)
	return flavor{ID: f.ID, StrID: id, Name: f.Name, RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk, Links: c.links("flavors", id)}
}

func (c *call) listFlavors() (int, any, error) {
	list := []flavor{}
	for _, f := range c.Server.Flavors() {
		list = append(list, c.flavor(f))
	}
	return http.StatusOK, map[string]any{"flavors": list}, nil
}

func (c *call) showFlavor() (int, any, error) {
	for _, f := range c.Server.Flavors() {
		if strconv.Itoa(f.ID) == c.r.PathValue("id") {
			return http.StatusOK, map[string]any{"flavor": c.flavor(f)}, nil
		}
	}
	return 0, nil, api.NoResource(c.r.PathValue("id"))
}
