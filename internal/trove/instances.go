package trove

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// maxVolume is the largest size of a volume that is believed, in GB.
const maxVolume = 1 << 20

// instance is one as Trove shows it. Lists give the short view, without what is marked.
type instance struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	Status          string            `json:"status"`
	OperatingStatus string            `json:"operating_status"`
	Links           []link            `json:"links"`
	Flavor          instanceFlavor    `json:"flavor"`
	Datastore       instanceDatastore `json:"datastore"`
	Volume          instanceVolume    `json:"volume"`
	IP              []string          `json:"ip"`
	Addresses       []address         `json:"addresses"`
	Hostname        string            `json:"hostname,omitempty"` // if its address is a name
	Region          string            `json:"region"`
	Access          instanceAccess    `json:"access"`
	TenantID        string            `json:"tenant_id,omitempty"` // for administrators
	ServerID        string            `json:"server_id,omitempty"` // for administrators: the agent

	Created *stamp         `json:"created,omitempty"` // detail
	Updated *stamp         `json:"updated,omitempty"` // detail
	Fault   *instanceFault `json:"fault,omitempty"`   // detail
}

type instanceFlavor struct {
	ID    string `json:"id"`
	Links []link `json:"links"`
}

type instanceDatastore struct {
	Type          string `json:"type"`
	Version       string `json:"version"`
	VersionNumber string `json:"version_number"`
}

type instanceVolume struct {
	Size int      `json:"size"`
	Used *float64 `json:"used,omitempty"` // detail, and not while it is being made
}

type address struct {
	Address string `json:"address"`
	Type    string `json:"type"`
}

type instanceAccess struct {
	IsPublic bool `json:"is_public"`
}

type instanceFault struct {
	Message string `json:"message"`
	Created stamp  `json:"created"`
	Details string `json:"details"`
}

func (c *call) instance(i *job.Instance, detail bool) instance {
	live := c.Server.Live(i)
	version := i.CouchDBVersion
	if live.Version != "" {
		version = live.Version
	}
	v := instance{
		ID: i.ID, Name: i.Name, Status: string(i.Shown()), OperatingStatus: operatingStatus(i, live),
		Links:     c.links("instances", i.ID),
		Flavor:    instanceFlavor{i.Flavor, c.links("flavors", i.Flavor)},
		Datastore: instanceDatastore{c.couchdb().Name, versionName(version), version},
		Volume:    instanceVolume{Size: i.VolumeGB},
		IP:        []string{}, Addresses: []address{}, Region: c.Region,
	}
	if i.Address != "" {
		v.IP = append(v.IP, i.Address)
		v.Addresses = append(v.Addresses, address{i.Address, "private"})
		if net.ParseIP(i.Address) == nil {
			v.Hostname = i.Address
		}
	}
	if c.who.May(access.Admin) {
		v.TenantID, v.ServerID = i.Project, i.Agent
	}
	if !detail {
		return v
	}
	v.Created, v.Updated = (*stamp)(&i.Created), (*stamp)(&i.Updated)
	if i.Status != job.InstanceBuild { // what was last heard of, if anything
		v.Volume.Used = gigabytes(live.UsedBytes)
	}
	if i.Fault != nil {
		v.Fault = &instanceFault{Message: i.Fault.Message, Created: stamp(i.Fault.Created)}
	}
	return v
}

// operatingStatus is how CouchDB is, as far as its agent says.
func operatingStatus(i *job.Instance, live server.Live) string {
	switch {
	case i.Status == job.InstanceBuild:
		return "BUILDING"
	case i.Status == job.InstanceFailed:
		return "FAILED"
	case !live.Online:
		return "UNKNOWN"
	case live.Up:
		return "HEALTHY"
	}
	return "SHUTDOWN"
}

func (c *call) listInstances() (int, any, error) {
	return c.instancePage(c.Server.Instances(c.who, false), false)
}

func (c *call) listInstancesDetail() (int, any, error) {
	return c.instancePage(c.Server.Instances(c.who, false), true)
}

// listAllInstances lists those of all projects, or of one.
func (c *call) listAllInstances() (int, any, error) {
	q := c.r.URL.Query()
	all := c.Server.Instances(c.who, true)
	if isTrue(q.Get("deleted")) { // nothing is kept of them
		all = nil
	}
	if project := q.Get("project_id"); project != "" {
		all = slices.DeleteFunc(all, func(i *job.Instance) bool { return i.Project != project })
	}
	return c.instancePage(all, false)
}

func (c *call) showInstance() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	i, err := c.Server.Instance(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"instance": c.instance(i, true)}, nil
}

func (c *call) showAnyInstance() (int, any, error) {
	i, _, err := c.anyInstance()
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"instance": c.instance(i, true)}, nil
}

// anyInstance returns the instance in the path, of whatever project, and the caller as
// one of that project.
func (c *call) anyInstance() (*job.Instance, *access.Caller, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range c.Server.Instances(c.who, true) {
		if i.ID == id {
			who := *c.who
			who.Project = i.Project
			return i, &who, nil
		}
	}
	return nil, nil, api.NoResource(id)
}

func (c *call) createInstance() (int, any, error) {
	o, err := c.body("instance")
	if err != nil {
		return 0, nil, err
	}
	n := server.NewInstance{Name: o.label("name", true), Flavor: o.last("flavorRef"), Agent: o.text("availability_zone")}
	if n.Flavor == "" {
		o.wrong("flavorRef", "is required")
	}
	n.VolumeGB, _ = o.object("volume").number("size", 1, maxVolume)
	if point := o.object("restorePoint"); point.fields != nil {
		var ok bool
		if n.Backup, ok = api.ParseID(point.last("backupRef")); !ok {
			point.wrong("backupRef", "must be a backup's UUID, or a URL that ends in it")
		}
	}
	d := o.object("datastore")
	n.Datastore, n.Version = d.text("type"), d.text("version")
	if number := d.text("version_number"); n.Version == "" {
		n.Version = number
	}
	if err := o.err(); err != nil {
		return 0, nil, err
	}
	for _, key := range []struct{ name, message string }{
		{"databases", "Databases are made in CouchDB itself: create the instance without them."},
		{"users", "Users are managed in CouchDB itself: create the instance without them."},
		{"replica_of", "Replicas are not supported."},
		{"slave_of", "Replicas are not supported."},
		{"configuration", "Configuration groups are not supported."},
		{"modules", "Modules are not supported."},
	} {
		if err := o.none(key.name, key.message); err != nil {
			return 0, nil, err
		}
	}
	i, err := c.Server.CreateInstance(c.r.Context(), c.who, n)
	if err != nil {
		return 0, nil, err
	}
	c.log.Target = i.ID
	return http.StatusOK, map[string]any{"instance": c.instance(i, true)}, nil
}

func (c *call) updateInstance() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	o, err := c.body("instance")
	if err != nil {
		return 0, nil, err
	}
	for _, key := range []string{"configuration", "replica_of", "slave_of", "access", "datastore_version"} {
		if _, ok := o.fields[key]; ok {
			return unsupportedOn("Only the name of an instance can be changed, not " + key + ".")(c)
		}
	}
	name := o.label("name", true)
	if err := o.err(); err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, c.Server.RenameInstance(c.r.Context(), c.who, id, name)
}

func (c *call) deleteInstance() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, c.Server.DeleteInstance(c.r.Context(), c.who, id)
}

func (c *call) actOnInstance() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	o, err := c.body("")
	if err != nil {
		return 0, nil, err
	}
	what, err := o.one("restart", "reset_status", "resize", "promote_to_replica_source", "eject_replica_source", "change_password")
	if err != nil {
		return 0, nil, err
	}
	c.log.Action = "instance." + what
	o.object(what) // null or an object
	if err := o.err(); err != nil {
		return 0, nil, err
	}
	switch what {
	case "restart":
		return http.StatusAccepted, nil, c.Server.Restart(c.r.Context(), c.who, id)
	case "reset_status":
		return http.StatusAccepted, nil, c.Server.ResetStatus(c.r.Context(), c.who, id)
	}
	return unsupportedOn("The action " + what + " is not supported.")(c)
}

func (c *call) actOnAnyInstance() (int, any, error) {
	i, owner, err := c.anyInstance()
	if err != nil {
		return 0, nil, err
	}
	o, err := c.body("")
	if err != nil {
		return 0, nil, err
	}
	what, err := o.one("reset-task-status", "reset_status", "stop", "reboot", "migrate", "update", "rebuild")
	if err != nil {
		return 0, nil, err
	}
	c.log.Action = "instance." + what
	if !strings.HasPrefix(what, "reset") {
		return 0, nil, api.Refuse(http.StatusNotImplemented, "The action "+what+" is not supported.")
	}
	return http.StatusAccepted, nil, c.Server.ResetStatus(c.r.Context(), owner, i.ID)
}

func (c *call) listDatabases() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	names, err := c.Server.Databases(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	type database struct {
		Name string `json:"name"`
	}
	list := make([]database, len(names))
	for i, name := range names {
		list[i].Name = name
	}
	return http.StatusOK, map[string]any{"databases": list}, nil
}
