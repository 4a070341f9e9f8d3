package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newCompletion(env *core.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a completion script for a shell",
		Long: `Print a script that completes slipcover's commands in a shell.

  bash:        source <(slipcover completion bash)
  zsh:         slipcover completion zsh > "${fpath[1]}/_slipcover"
  fish:        slipcover completion fish > ~/.config/fish/completions/slipcover.fish
  powershell:  slipcover completion powershell | Out-String | Invoke-Expression`,
		Args:      core.Arguments(1, 1, "the name of a shell: bash, zsh, fish or powershell"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompletion(cmd.Root(), env.Stdout, args[0])
		},
	}
}

func runCompletion(root *cobra.Command, w io.Writer, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(w)
	}
	return core.Usage("there is no completion for %q; there is for bash, zsh, fish and powershell", shell)
}
