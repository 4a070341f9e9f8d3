package testenv

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const azuriteVersion = "3.37.0"

// AzuriteServer is an emulator of Azure Blob Storage.
type AzuriteServer struct {
	Domain       string // address, for AZURE_STORAGE_DOMAIN
	Account, Key string
}

// Azurite starts Azurite, which it installs with npm at the first use. It keeps
// objects in memory.
func Azurite(t TB) AzuriteServer {
	t.Helper()
	node := Tool(t, "node", "npm")
	if v, ok := nodeVersion(node); !ok {
		Missing(t, "azurite", fmt.Sprintf("it needs node %d or newer, and this is %s", oldestNode, v))
	}
	main, err := installAzurite()
	if err != nil {
		Missing(t, "azurite", err.Error())
	}
	a := AzuriteServer{Account: "slipcovertest", Key: base64.StdEncoding.EncodeToString([]byte(randomHex(64)))}
	dir := t.TempDir()
	port := startEmulator(t, "azurite", func(port int) *exec.Cmd {
		cmd := exec.Command(node, main, "--blobHost", "127.0.0.1", "--blobPort", fmt.Sprint(port),
			"--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+a.Account+":"+a.Key)
		return cmd
	})
	a.Domain = fmt.Sprintf("127.0.0.1:%d", port)
	return a
}

// oldestNode is the oldest major version of node that Azurite was seen to run with.
const oldestNode = 20

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

// installAzurite returns the path of Azurite's blob service.
func installAzurite() (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	installed := filepath.Join(dir, "azurite-"+azuriteVersion)
	main := filepath.Join(installed, "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(main); err == nil {
		return main, nil
	}
	temp, err := os.MkdirTemp(dir, "install-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	cmd := exec.Command("npm", "install", "--prefix", temp, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", "azurite@"+azuriteVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		return "", fmt.Errorf("azurite %s can't be installed: %w: %s", azuriteVersion, err, first)
	}
	if err := os.Rename(temp, installed); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return main, nil
}
