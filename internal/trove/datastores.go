package trove

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/server"
)

type datastore struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	DefaultVersion string    `json:"default_version"` // id
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

// datastores returns the one that there is. Finding out its versions looks through all
// instances, so it is done once for a request.
func (c *call) datastores() server.Datastore {
	if c.kept == nil {
		d := c.Server.Datastore()
		c.kept = &d
	}
	return *c.kept
}

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

func (c *call) isDatastore(text string) bool {
	d := c.datastores()
	return text == d.ID || text == d.Name
}

func noDatastore(text string) error {
	return &refusal{http.StatusNotFound, fmt.Sprintf("Datastore '%s' cannot be found.", text)}
}

// findVersion returns the version of an id or name.
func (c *call) findVersion(text string) (server.Version, bool) {
	for _, v := range c.datastores().Versions {
		if text == v.ID || text == v.Name {
			return v, true
		}
	}
	return server.Version{}, false
}

func (c *call) listDatastores() (int, any, error) {
	return http.StatusOK, map[string]any{"datastores": []datastore{c.datastore(c.datastores())}}, nil
}

func (c *call) showDatastore() (int, any, error) {
	if text := c.r.PathValue("datastore"); !c.isDatastore(text) {
		return 0, nil, noDatastore(text)
	}
	return http.StatusOK, map[string]any{"datastore": c.datastore(c.datastores())}, nil
}

func (c *call) showVersionsOrVersion() (int, any, error) {
	a, b := c.r.PathValue("a"), c.r.PathValue("b")
	switch {
	case b == "versions" && !c.isDatastore(a):
		return 0, nil, noDatastore(a)
	case b == "versions":
		return http.StatusOK, map[string]any{"versions": c.versionList(c.datastores())}, nil
	case a == "versions":
		return c.versionOf(b)
	}
	return 0, nil, notFound
}

func (c *call) showVersion() (int, any, error) {
	if text := c.r.PathValue("datastore"); !c.isDatastore(text) {
		return 0, nil, noDatastore(text)
	}
	return c.versionOf(c.r.PathValue("version"))
}

func (c *call) versionOf(text string) (int, any, error) {
	v, ok := c.findVersion(text)
	if !ok {
		return 0, nil, &refusal{http.StatusNotFound, fmt.Sprintf("Datastore version '%s' cannot be found.", text)}
	}
	return http.StatusOK, map[string]any{"version": c.version(c.datastores(), v)}, nil
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
	return 0, nil, noResource(c.r.PathValue("id"))
}
