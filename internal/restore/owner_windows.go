package restore

import "os"

// owner is nothing here: files belong to who runs the restore.
type owner struct{ set bool }

func parseOwner(spec string) (o owner, warning string, err error) {
	if spec != "" {
		warning = "the files belong to the user that ran this: --owner has no meaning on Windows"
	}
	return owner{}, warning, nil
}

func runsAsRoot(string, bool) string { return "" }

func (owner) file(*os.File) error { return nil }
func (owner) path(string) error   { return nil }

// OwnerOf says that files belong to whoever makes them.
func OwnerOf(string) (owner string, ok bool) { return "", true }

// deviceOf isn't known here: the name is not given, then.
func deviceOf(string) (uint64, error) { return 0, nil }
