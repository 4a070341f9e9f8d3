package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// oldestNode is the oldest major version of node that what is installed here was seen to
// run with.
const oldestNode = 20

// NodeModule returns the path of node and of a folder node_modules that holds a package,
// which is installed with npm at the first use, without running its scripts.
func NodeModule(t TB, name, version string) (node, modules string) {
	t.Helper()
	node = Tool(t, "node", "npm")
	if v, ok := nodeVersion(node); !ok {
		Missing(t, name, fmt.Sprintf("it needs node %d or newer, and this is %s", oldestNode, v))
	}
	modules, err := installModule(name, version)
	if err != nil {
		Missing(t, name, err.Error())
	}
	return node, modules
}

// NodeFiles returns the folder of a package's own files, without what it needs, which is fetched with npm at the first use.
func NodeFiles(t TB, name, version string) string {
	t.Helper()
	Tool(t, "npm")
	dir, err := packageFiles(name, version)
	if err != nil {
		Missing(t, name, err.Error())
	}
	return dir
}

func packageFiles(name, version string) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	files := filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+"-files-"+version)
	if _, err := os.Stat(files); err == nil {
		return files, nil
	}
	temp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	cmd := exec.Command("npm", "pack", "--pack-destination", temp, "--ignore-scripts", "--loglevel", "error", name+"@"+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		return "", fmt.Errorf("%s %s can't be fetched: %w: %s", name, version, err, first)
	}
	packed, err := filepath.Glob(filepath.Join(temp, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return "", fmt.Errorf("%s %s: npm left %q", name, version, packed)
	}
	if out, err := exec.Command("tar", "-xzf", packed[0], "-C", temp).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s %s can't be unpacked: %w: %s", name, version, err, lastLine(out))
	}
	if err := os.Rename(filepath.Join(temp, "package"), files); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return files, nil
}

// nodeVersion returns node's version, and whether it is new enough.
func nodeVersion(node string) (string, bool) {
	out, err := exec.Command(node, "--version").Output()
	if err != nil {
		return err.Error(), false
	}
	var major int
	version := strings.TrimSpace(string(out))
	_, err = fmt.Sscanf(version, "v%d.", &major)
	return version, err == nil && major >= oldestNode
}

func installModule(name, version string) (modules string, err error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	installed := filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+"-"+version)
	modules = filepath.Join(installed, "node_modules")
	if _, err := os.Stat(filepath.Join(modules, name)); err == nil {
		return modules, nil
	}
	temp, err := os.MkdirTemp(dir, "install-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	cmd := exec.Command("npm", "install", "--prefix", temp, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", name+"@"+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		return "", fmt.Errorf("%s %s can't be installed: %w: %s", name, version, err, first)
	}
	if err := os.Rename(temp, installed); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return modules, nil
}
