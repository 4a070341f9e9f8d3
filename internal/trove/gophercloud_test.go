package trove_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/databases"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/datastores"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/instances"

	"github.com/slipcover/slipcover/internal/testenv"
)

// keystoneService is the database service of the catalog.
func keystoneService(t *testing.T, k *testenv.KeystoneServer) *gophercloud.ServiceClient {
	t.Helper()
	provider, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{IdentityEndpoint: k.Vars["OS_AUTH_URL"], Username: "demo", Password: "demo-key",
		DomainID: "default", Scope: &gophercloud.AuthScope{ProjectName: "demo", DomainID: "default"}})
	if err != nil {
		t.Fatal(err)
	}
	service, err := openstack.NewDBV1(provider, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// tokenService is a service that is known by its endpoint and a token.
func tokenService(endpoint, token string) *gophercloud.ServiceClient {
	return &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{TokenID: token}, Endpoint: endpoint + "/", Type: "database"}
}

// fromBackup adds to the options of a new instance what gophercloud lacks.
type fromBackup struct {
	instances.CreateOpts
	backup string
}

func (o fromBackup) ToInstanceCreateMap() (map[string]any, error) {
	m, err := o.CreateOpts.ToInstanceCreateMap()
	if err == nil {
		m["instance"].(map[string]any)["restorePoint"] = map[string]any{"backupRef": o.backup}
	}
	return m, err
}

type goBackup struct {
	ID, Name, Status string
	Size             float64
	Datastore        datastores.DatastorePartial
}

func gophercloudRun(s *strand, m *machine, sc *gophercloud.ServiceClient) {
	t, ctx := s.t, s.t.Context()
	must := func(what string, err error, outcome string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		s.rows = append(s.rows, what+"\n    "+strings.TrimSuffix("ok: "+s.plain(outcome), ": "))
	}
	pages, err := instances.List(sc).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := instances.ExtractInstances(pages)
	must("instances.List", err, "")
	if len(list) == 0 {
		t.Error("no instances")
	}
	i, err := instances.Get(ctx, sc, m.id).Extract()
	if err != nil {
		t.Fatal(err)
	}
	must("instances.Get", err, i.Name+" "+i.Status+" "+i.Datastore.Type+" "+i.Datastore.Version+" flavor "+i.Flavor.ID)
	if i.Created.IsZero() || len(i.IP) != 1 || i.Volume.Used == 0 {
		t.Errorf("got %+v", i)
	}
	pages, err = flavors.List(sc).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f, err := flavors.ExtractFlavors(pages)
	must("flavors.List", err, f[0].StrID+" "+f[0].Name)
	one, err := flavors.Get(ctx, sc, f[0].StrID).Extract()
	must("flavors.Get", err, one.Name)
	pages, err = datastores.List(sc).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d, err := datastores.ExtractDatastores(pages)
	must("datastores.List", err, d[0].Name)
	if d[0].DefaultVersion == "" {
		t.Error("no default version")
	}
	store, err := datastores.Get(ctx, sc, "couchdb").Extract()
	must("datastores.Get", err, store.Name)
	pages, err = datastores.ListVersions(sc, "couchdb").AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v, err := datastores.ExtractVersions(pages)
	must("datastores.ListVersions", err, v[0].Name)
	version, err := datastores.GetVersion(ctx, sc, "couchdb", v[0].ID).Extract()
	must("datastores.GetVersion", err, version.Name)
	pages, err = databases.List(sc, m.id).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dbs, err := databases.ExtractDBs(pages)
	var names []string
	for _, db := range dbs {
		names = append(names, db.Name)
	}
	must("databases.List", err, strings.Join(names, " "))

	var made struct{ Backup goBackup }
	_, err = sc.Post(ctx, sc.ServiceURL("backups"), map[string]any{"backup": map[string]any{"name": m.name + "-nightly", "instance": m.id}}, &made, //nolint:bodyclose // gophercloud closes it
		&gophercloud.RequestOpts{OkCodes: []int{http.StatusAccepted}})
	must("Post backups", err, made.Backup.Name)
	m.backed(t, made.Backup.ID)
	_, err = sc.Get(ctx, sc.ServiceURL("backups", made.Backup.ID), &made, nil) //nolint:bodyclose // gophercloud closes it
	must("Get backup", err, made.Backup.Status)
	if made.Backup.Size <= 0 {
		t.Errorf("size %v", made.Backup.Size)
	}

	copied, err := instances.Create(ctx, sc, fromBackup{instances.CreateOpts{Name: m.name + "-copy", FlavorRef: "1", Size: 2, AvailabilityZone: m.name,
		Datastore: &instances.DatastoreOpts{Type: "couchdb", Version: "3.5"}}, made.Backup.ID}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	must("instances.Create with a restore point", err, copied.Name+" "+copied.Status)
	m.same(t, m.active(t, copied.ID))
	must("instances.Restart", instances.Restart(ctx, sc, copied.ID).ExtractErr(), "")
	m.same(t, m.active(t, copied.ID))
	must("instances.Delete", instances.Delete(ctx, sc, copied.ID).ExtractErr(), "")
	m.gone(t, copied.ID)
	_, err = instances.Get(ctx, sc, copied.ID).Extract()
	if !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		t.Errorf("a deleted instance: %v", err)
	}
	_, err = sc.Delete(ctx, sc.ServiceURL("backups", made.Backup.ID), nil) //nolint:bodyclose // gophercloud closes it
	must("Delete backup", err, "")
	if err := instances.Resize(ctx, sc, m.id, "1").ExtractErr(); !gophercloud.ResponseCodeIs(err, http.StatusNotImplemented) {
		t.Errorf("resize: %v", err)
	}
	s.rows = append(s.rows, "instances.Resize\n    refused: 501")
}
