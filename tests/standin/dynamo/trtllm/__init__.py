"""components/src/dynamo/trtllm of ai-dynamo/dynamo."""
