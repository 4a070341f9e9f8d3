package mem_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return mem.New() })
}

func TestContractOfRetaining(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return mem.NewRetaining() })
}
