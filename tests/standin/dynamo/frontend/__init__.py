"""components/src/dynamo/frontend of ai-dynamo/dynamo."""
