package testenv

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	node, modules := NodeModule(t, "azurite", azuriteVersion)
	main := filepath.Join(modules, "azurite", "dist", "src", "blob", "main.js")
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
